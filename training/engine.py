"""One optimizer step after another, through Accelerate, and the state that a checkpoint must hold.

All randomness of a step is a function of (seed, step, slot in the batch): see `randomness`. A run therefore goes on
exactly from its weights, their average, the optimizer's state and the step; batches do not depend on processes or
micro-batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.errors import InputError
from .activations import recompute_activations
from .averaging import WeightAverage
from .channels_last import use_channels_last
from .checkpoints import Checkpoint, optimizer_tensors, restore_optimizer
from .config import LoopTraining
from .feeding import Feeder
from .optimizers import build_adamw
from .precision import Precision, clip_gradients
from .processes import process_state
from .randomness import STEP, TRAINING, derive_seed, item_generator, scoped_seed, step_indices
from .rates import learning_rate
from .sharding import gather_state, release_gathered, shard_weights, sharding_requested, share_like
from .task import Batch, Task


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient is not a number any more.

    Attributes:
        remedy: One line that says what to change.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step reports, averaged over the batch and all processes.

    Attributes:
        scalars: `loss`, the task's own figures, `learning_rate` and `grad_norm` (before clipping).
    """

    scalars: Mapping[str, float]


class Engine:
    """A task ready to be trained: accelerator, optimizer, averaged weights and the step reached.

    Args:
        task: The network, its data and its loss.
        options: Every option of the loop.

    Raises:
        InputError: The device is not there, the batch cannot be shared out evenly, or the network cannot be sharded.
    """

    def __init__(self, task: Task, options: LoopTraining) -> None:
        self.task = task
        self.options = options
        self.accelerator = _accelerator(options)
        self.device: torch.device = self.accelerator.device
        self.processes: int = self.accelerator.num_processes
        self.sharded = sharding_requested() and self.processes > 1
        _check(options, self.processes, self.sharded)
        self.precision = Precision(options.precision, self.device)
        if options.channels_last:
            use_channels_last(task.objective)
        if options.recompute_activations:
            recompute_activations(task.objective)
        self._units: list[Any] = []
        if self.sharded:
            task.objective.to(self.device)
            self._units = shard_weights(task.objective, self.device, self.processes)
            self.objective: nn.Module = task.objective
        else:
            self.objective = self.accelerator.prepare_model(task.objective)
        self.optimizer: torch.optim.Optimizer = getattr(task, "optimizer", build_adamw)(task.objective, options)
        self.average = WeightAverage(task.objective, options.ema_decay)
        self.feeder = Feeder(self._prepare, ahead=self.device.type != "cpu")
        self.step = 0

    @property
    def world(self) -> dict[str, Any]:
        """How a run is shared out; its result depends on this through rounding alone."""
        return {"processes": self.processes, "sharded": self.sharded}

    def advance(self) -> StepResult:
        """Takes one optimizer step.

        Raises:
            TrainingDivergedError: The loss or the gradient is not finite; the weights are those before the step.
        """
        options = self.options
        rate = learning_rate(options, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        scalars, finite = self._accumulate()
        self.precision.unscale(self.optimizer)
        limit = options.clip_norm if options.clip_norm > 0 else math.inf
        scalars["grad_norm"] = clip_gradients(self.objective.parameters(), limit).detach().float()
        # One transfer for all figures: each wait for the device costs it work.
        figures = dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
        if not math.isfinite(figures["loss"]):
            raise self._diverged("loss", figures["loss"], self._unfit(finite))
        if not math.isfinite(figures["grad_norm"]) and not self.precision.forgives:
            raise self._diverged("gradient norm", figures["grad_norm"], self._indices())
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        if self.precision.scale is not None:
            figures["loss_scale"] = self.precision.scale
        return StepResult({**figures, "learning_rate": rate})

    def _accumulate(self) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of this process's items, in micro-batches.

        Returns:
            The mean scalars over all processes, and for each micro-batch of this process whether its loss is finite.
        """
        options = self.options
        means: dict[str, Tensor] = {}
        finite = []
        # Dropout and the like have no generator of their own; each process and step gets its seed.
        with scoped_seed(derive_seed(options.seed, STEP, self.step, self.accelerator.process_index), [self.device]):
            for part in range(options.accumulate):
                last = part + 1 == options.accumulate
                following = (self.step + 1, 0) if last else (self.step, part + 1)
                batch = self._move(self.feeder.take((self.step, part), following))
                with self._synchronised(last):
                    with self.precision.autocast():
                        loss, scalars = self.objective(batch, self.step)
                    finite.append(torch.isfinite(loss.detach()))
                    self.precision.backward(loss / options.accumulate)
                for name, value in {"loss": loss, **scalars}.items():
                    mean = value.detach().float() / options.accumulate
                    means[name] = means[name] + mean if name in means else mean
        if self.processes > 1:
            reduced = self.accelerator.reduce(torch.stack(list(means.values())), reduction="mean")
            means = dict(zip(means, reduced, strict=True))
        return means, torch.stack(finite)

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged after a step's last micro-batch only."""
        for unit in self._units:
            unit.set_requires_gradient_sync(last)
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.objective)

    def _indices(self) -> list[int]:
        """The items of the present step's whole batch, by slot."""
        return self._choose(self.step)

    def _choose(self, step: int) -> list[int]:
        own: Callable[[int], list[int]] | None = getattr(self.task, "indices", None)
        if own is not None:
            return own(step)
        return step_indices(self.options.seed, step, self.options.batch_size, len(self.task.ids))

    def _prepare(self, step: int, part: int) -> Batch:
        """A micro-batch of this process, on the CPU."""
        options = self.options
        share = options.batch_size // self.processes
        size = share // options.accumulate
        first = self.accelerator.process_index * share + part * size
        indices = self._choose(step)
        items = [
            self.task.draw(indices[slot], item_generator(options.seed, TRAINING, step, slot))
            for slot in range(first, first + size)
        ]
        batch = self.task.collate(items)
        if self.device.type == "cuda":
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return batch

    def _move(self, batch: Batch) -> Batch:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def validate(self) -> dict[str, float]:
        """The task's validation figures with averaged weights; empty on processes other than the first."""
        first: bool = self.accelerator.is_main_process
        if not first and not self.sharded:
            return {}
        self.task.objective.eval()
        # Sharded weights are gathered layer by layer, for which every process has to compute.
        with torch.no_grad(), self.precision.autocast(), self.average.applied():
            figures = self.task.validate(self.device)
            if self.sharded:
                release_gathered(self.task.objective)
        return figures if first else {}

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it, so that all stop at the same step."""
        if self.processes == 1:
            return wish
        votes = self.accelerator.reduce(torch.tensor(float(wish), device=self.device), reduction="sum")
        return bool(votes > 0)

    def weights(self) -> dict[str, Tensor]:
        """The objective's whole state dict on the CPU, averaged where averages are kept; empty but on the first."""
        first: bool = self.accelerator.is_main_process
        state = gather_state(self.task.objective.state_dict(), first)
        return {name: value.clone() for name, value in (state | gather_state(self.average.state(), first)).items()}

    def groups(self) -> dict[str, Mapping[str, Tensor]]:
        """The whole tensors that a checkpoint holds; all processes must ask, and only the first gets them."""
        names = {id(parameter): name for name, parameter in self.task.objective.named_parameters()}
        first: bool = self.accelerator.is_main_process
        groups = {
            "model": self.task.objective.state_dict(),
            "average": self.average.state(),
            "optimizer": optimizer_tensors(self.optimizer, names),
        }
        return {name: gather_state(tensors, first) for name, tensors in groups.items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's tensors, its loss scale and its step."""
        own = self.task.objective.state_dict()
        state = {
            name: share_like(value, own[name]) if self.sharded and name in own else value
            for name, value in checkpoint.tensors("model").items()
        }
        self.task.objective.load_state_dict(state, strict=True)
        self.average.restore(checkpoint.tensors("average"))
        parameters = dict(self.task.objective.named_parameters())
        restore_optimizer(self.optimizer, parameters, checkpoint.tensors("optimizer"))
        self.precision.restore(checkpoint.state().get("loss_scale", {}))
        self.step = checkpoint.step

    def _unfit(self, finite: Tensor) -> list[int]:
        """The items of the micro-batches, of all processes, whose loss is not finite."""
        flags = self.accelerator.gather(finite).tolist() if self.processes > 1 else finite.tolist()
        indices = self._indices()
        size = len(indices) // len(flags)
        return [index for place, index in enumerate(indices) if not flags[place // size]]

    def _diverged(self, what: str, value: float, indices: Sequence[int]) -> TrainingDivergedError:
        self.optimizer.zero_grad(set_to_none=True)
        ids = ", ".join(dict.fromkeys(self.task.ids[index] for index in indices))
        return TrainingDivergedError(
            f"The {what} is {value} at step {self.step + 1}; the batch holds: {ids}.",
            "Look at these items, or start a fresh run at a lower learning_rate.",
        )


def _check(options: LoopTraining, processes: int, sharded: bool) -> None:
    if options.batch_size % (processes * options.accumulate):
        raise InputError(
            f"A batch of {options.batch_size} items cannot be shared by {processes} processes in "
            f"{options.accumulate} equal micro-batches.",
            "Choose a batch_size that is a multiple of processes times accumulate.",
        )
    if sharded and options.precision == "fp16":
        raise InputError(
            "Option precision is fp16 and the weights are to be sharded: loss scales would differ between processes.",
            "Use bf16 or fp32 with --use_fsdp.",
        )
    if sharded and options.channels_last:
        raise InputError(
            "Option channels_last is set and the weights are to be sharded, which keeps them contiguous.",
            "Add --set channels_last=false.",
        )


def _accelerator(options: LoopTraining) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    # Accelerate keeps one state per process; a second training in the same process may want another device.
    AcceleratorState._reset_state()
    process_state(options)
    return Accelerator(
        cpu=options.device == "cpu",
        # The number format is ours to choose (`precision`), whatever the launcher was told.
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)],
    )

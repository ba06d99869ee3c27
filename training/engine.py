"""One optimizer step after another, through Accelerate, and the state that a checkpoint must hold.

All randomness of a step is a function of (seed, step, slot in the batch): see `randomness`. A run therefore goes on
exactly from its weights, their average, the optimizer's state and the step; batches do not depend on processes or
micro-batches.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.errors import InputError
from .averaging import WeightAverage
from .checkpoints import Checkpoint, optimizer_tensors, restore_optimizer
from .config import LoopTraining
from .randomness import STEP, TRAINING, derive_seed, item_generator, scoped_seed, step_indices
from .rates import learning_rate
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
        InputError: The device is not there, or the batch cannot be shared out evenly.
    """

    def __init__(self, task: Task, options: LoopTraining) -> None:
        self.task = task
        self.options = options
        self.accelerator = _accelerator(options)
        self.device: torch.device = self.accelerator.device
        workers = self.accelerator.num_processes
        if options.batch_size % (workers * options.accumulate):
            raise InputError(
                f"A batch of {options.batch_size} items cannot be shared by {workers} processes in "
                f"{options.accumulate} equal micro-batches.",
                "Choose a batch_size that is a multiple of processes times accumulate.",
            )
        if options.channels_last:
            use_channels_last(task.objective)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in task.objective.parameters() if parameter.requires_grad],
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.objective, self.optimizer = self.accelerator.prepare(task.objective, optimizer)
        self.average = WeightAverage(task.objective, options.ema_decay)
        self.step = 0

    def advance(self) -> StepResult:
        """Takes one optimizer step.

        Raises:
            TrainingDivergedError: The loss or the gradient is not finite; the weights are those before the step.
        """
        options, workers = self.options, self.accelerator.num_processes
        rate = learning_rate(options, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        share = options.batch_size // workers
        first = self.accelerator.process_index * share
        indices = step_indices(options.seed, self.step, options.batch_size, len(self.task.ids))[first : first + share]
        scalars = self._accumulate(indices, first)
        norm = self._gradient_norm()
        if not math.isfinite(norm):
            raise self._diverged("gradient norm", norm, indices)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        return StepResult({**scalars, "learning_rate": rate, "grad_norm": norm})

    def _accumulate(self, indices: Sequence[int], first: int) -> dict[str, float]:
        """Gradients of this process's items, in micro-batches; returns the mean scalars over all processes."""
        options, accelerator = self.options, self.accelerator
        size = len(indices) // options.accumulate
        means: dict[str, Tensor] = {}
        # Dropout and the like have no generator of their own; each process and step gets its seed.
        with scoped_seed(derive_seed(options.seed, STEP, self.step, accelerator.process_index), [self.device]):
            for part in range(options.accumulate):
                chosen = range(part * size, (part + 1) * size)
                batch = self.collect([(first + place, indices[place]) for place in chosen])
                synchronise = part + 1 == options.accumulate
                context: AbstractContextManager[Any] = (
                    nullcontext() if synchronise else accelerator.no_sync(self.objective)
                )
                with context:
                    loss, scalars = self.objective(batch, self.step)
                    if not bool(torch.isfinite(loss)):
                        raise self._diverged("loss", float(loss.detach()), [indices[place] for place in chosen])
                    accelerator.backward(loss / options.accumulate)
                for name, value in {"loss": loss, **scalars}.items():
                    means[name] = means.get(name, torch.zeros(())) + value.detach().float().cpu() / options.accumulate
        if accelerator.num_processes > 1:
            moved = {name: value.to(self.device) for name, value in means.items()}
            means = accelerator.reduce(moved, reduction="mean")
        return {name: float(value) for name, value in means.items()}

    def collect(self, slots: Sequence[tuple[int, int]]) -> Batch:
        """The batch of (slot, item index) pairs on the device."""
        items = [
            self.task.draw(index, item_generator(self.options.seed, TRAINING, self.step, slot)) for slot, index in slots
        ]
        return {name: value.to(self.device) for name, value in self.task.collate(items).items()}

    def validate(self) -> dict[str, float]:
        """The task's validation figures with averaged weights; empty on processes other than the first."""
        if not self.accelerator.is_main_process:
            return {}
        self.task.objective.eval()
        with torch.no_grad(), self.accelerator.autocast(), self.average.applied():
            return self.task.validate(self.device)

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return wish
        votes = self.accelerator.reduce(torch.tensor(float(wish), device=self.device), reduction="sum")
        return bool(votes > 0)

    def weights(self) -> dict[str, Tensor]:
        """The objective's state dict on the CPU, averaged where averages are kept."""
        state = {name: value.detach().cpu().clone() for name, value in self.task.objective.state_dict().items()}
        return state | {name: value.detach().cpu().clone() for name, value in self.average.state().items()}

    def groups(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors that a checkpoint holds."""
        names = {id(parameter): name for name, parameter in self.task.objective.named_parameters()}
        return {
            "model": self.task.objective.state_dict(),
            "average": self.average.state(),
            "optimizer": optimizer_tensors(self.optimizer.optimizer, names),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's tensors and its step."""
        self.task.objective.load_state_dict(checkpoint.tensors("model"), strict=True)
        self.average.restore(checkpoint.tensors("average"))
        parameters = dict(self.task.objective.named_parameters())
        restore_optimizer(self.optimizer.optimizer, parameters, checkpoint.tensors("optimizer"))
        self.step = checkpoint.step

    def _gradient_norm(self) -> float:
        limit = self.options.clip_norm if self.options.clip_norm > 0 else math.inf
        return float(self.accelerator.clip_grad_norm_(self.objective.parameters(), limit))

    def _diverged(self, what: str, value: float, indices: Sequence[int]) -> TrainingDivergedError:
        self.optimizer.zero_grad(set_to_none=True)
        ids = ", ".join(self.task.ids[index] for index in indices)
        return TrainingDivergedError(
            f"The {what} is {value} at step {self.step + 1}; the batch holds: {ids}.",
            "Look at these items, or resume with a fresh run at a lower learning_rate.",
        )


def use_channels_last(module: nn.Module) -> None:
    """Stores the module's convolution weights channels last, in place; their values stay."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def _accelerator(options: LoopTraining) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("Option device is 'cuda' and torch sees no CUDA device.", 'Set device = "cpu" or "auto".')
    # Accelerate keeps one state per process; a second training in the same process may want another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=options.device == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16"}[options.precision],
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )

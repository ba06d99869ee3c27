"""What the loop needs to know of a network in training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Log = Callable[[str], None]


def no_log(line: str) -> None:
    """Drops a log line."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: Optimizer steps done.
        seconds: Time spent in the loop, over all its sessions.
        hardware: The device, in words.
        scalars: The newest validation figures.
        changes: What was changed on the way, at which step.
    """

    step: int
    seconds: float
    hardware: str
    scalars: Mapping[str, float]
    changes: tuple[str, ...] = ()


class Task(Protocol):
    """A network, its data and its loss.

    A task may also have `details`, for each name of its identity a table that shows what differs where the digests do;
    `score(figures)`, higher for a better validation, where that is not the lower `loss`; and, with the option
    samples_every, `illustrate(path, state, device)`, which draws samples and says whether there were any. Where items
    are not to be taken in random order, `indices(step)` gives those of a step; where one AdamW for all is not wanted,
    `optimizer(objective, options)` makes another. Its objective
    may have `checkpointing_units()`, blocks whose activations can be computed again, and `sharding_units()`, modules to
    share out by FSDP, children first.

    Attributes:
        objective: A module that holds every trained network; `objective(batch, step)` gives the loss and scalars.
        ids: The training items, in a fixed order.
        identity: Digests of what must not change between a run and its resumption, such as the data and the card.
    """

    objective: nn.Module
    ids: Sequence[str]
    identity: Mapping[str, str]

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        """Item `index` without a batch axis, with all its random numbers drawn from the CPU generator."""
        ...

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Items as one batch."""
        ...

    def validate(self, device: torch.device) -> dict[str, float]:
        """Figures of the objective's present weights on the validation items."""
        ...

    def constants(self) -> dict[str, Any]:
        """JSON-able values computed once from the training set, stored in checkpoints."""
        ...

    def restore(self, constants: Mapping[str, Any]) -> None:
        """Takes over the constants of a checkpoint."""
        ...

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the model folder from the objective's state dict, averaged where averages are kept."""
        ...

"""Items to be sampled with everything decided: seed, class and spacing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..zoo.card import Card
from ..zoo.record import Record
from .conditions import check_class, choose_spacing
from .embeddings import Embedding
from .prompts import PromptItem

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """An item with everything decided."""

    item: PromptItem
    seed: int
    spacing_mm: tuple[float, ...]

    @property
    def conditions(self) -> dict[str, Any]:
        """What it is conditioned on beside its prompt, for the sidecar."""
        return {"class": self.item.class_label, "spacing_mm": list(self.spacing_mm)}


@dataclass(frozen=True)
class Batch:
    """A stretch of items in input order: done ones with their records, and those to be made together (None).

    Attributes:
        entries: The items.
        prompts: Embedded prompt of each item to be made.
        null_text: The embedded empty prompt; None where nothing is to be made.
    """

    entries: list[tuple[Job, list[Record] | None]]
    prompts: list[Embedding]
    null_text: "torch.Tensor | None"

    @property
    def pending(self) -> list[Job]:
        """What is to be made."""
        return [job for job, done in self.entries if done is None]


def decide(item: PromptItem, card: Card) -> Job:
    """What sampling an item with a model means.

    Raises:
        InputError: A condition that does not fit the model.
    """
    if item.seed is None:
        raise ValueError(f"Item {item.id} has no seed; see prompts.expand_seeds.")
    check_class(item, card)
    return Job(item, item.seed, choose_spacing(card, item.spacing_mm, item.id))

"""Whether the condition values of prompts fit a model, before anything is computed or written."""

from collections.abc import Sequence

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from .prompts import PromptItem


def check_classes(items: Sequence[PromptItem], card: Card) -> None:
    """Refuses items whose class does not fit the model; see `check_class`."""
    for item in items:
        check_class(item, card)


def check_class(item: PromptItem, card: Card) -> None:
    """Refuses a class that the model does not take, and a missing one that it needs.

    Raises:
        InputError: The item asks for a class other than 0 and 1, or for one of a model that takes none, or it has none
            and the model predicts none.
    """
    label = item.class_label
    source = load_family(card.family).class_input(card) if "class" in card.conditions else "none"
    if label is None:
        if source == "given":
            raise InputError(
                f"Item {item.id} has no class, and model {card.id} does not predict one.",
                "Give --class 0 or 1, or a column `class` in the manifest of prompts.",
            )
    elif source == "none" or label not in (0, 1):
        raise InputError(
            f"Item {item.id} asks for class {label}, which model {card.id} does not take.",
            "Leave the class out." if source == "none" else "Give 0 or 1.",
        )

"""Whether the condition values of prompts fit a model, before anything is computed or written."""

from collections.abc import Sequence

from ..imaging.errors import InputError
from ..imaging.files import SPACING_LIMITS_MM
from ..zoo.card import Card
from ..zoo.family import load_family
from .prompts import PromptItem


def check_conditions(items: Sequence[PromptItem], card: Card) -> None:
    """Refuses items whose class or spacing does not fit the model.

    Raises:
        InputError: See `check_class` and `choose_spacing`; or no volume could have voxels of an item's spacing.
    """
    lower, upper = SPACING_LIMITS_MM
    for item in items:
        check_class(item, card)
        spacing = choose_spacing(card, item.spacing_mm, item.id)
        if card.image.axes == "xyz" and not all(lower <= step <= upper for step in spacing):
            raise InputError(
                f"The spacing {list(spacing)} of {item.id} is that of no volume.", f"Give {lower:g} to {upper:g} mm."
            )


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


def choose_spacing(card: Card, wanted: Sequence[float] | None, item_id: str) -> tuple[float, ...]:
    """The spacing in mm of an item's image: what is wanted, else the card's.

    Raises:
        InputError: There is none, or it has another number of axes.
    """
    spacing = tuple(wanted) if wanted is not None else card.image.spacing_mm
    if spacing is None:
        raise InputError(f"{item_id} has no spacing, and model {card.id} states none.", "Give --spacing.")
    if len(spacing) != len(card.image.axes):
        raise InputError(
            f"The spacing {list(spacing)} of {item_id} has {len(spacing)} values for the axes {card.image.axes!r}.",
            f"Give {len(card.image.axes)} values in mm.",
        )
    return spacing

"""Recipes: options of training, and where a study needs it changes of the network, as TOML.

    base = "ccella"                        # optional: another recipe that this one changes

    [model.parts.denoiser.config]          # optional: changes of the model's card
    class_input = "none"

    [denoiser]                             # options, by stage
    class_weight = 0.0

A file that holds the options of one stage may do without tables. A recipe is a file or the name of a published one: a
model of the zoo (its card's own [training]) or a file of `training/recipes`.
"""

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from ..zoo.card import Card, parse_card
from ..zoo.registry import list_cards
from ..zoo.tables import read_user_toml

STAGES = ("autoencoder", "text_encoder", "denoiser", "classifier")
FOLDER = Path(__file__).parent / "recipes"
_MODEL, _BASE = "model", "base"


@dataclass(frozen=True)
class Recipe:
    """One layer of options.

    Attributes:
        source: Where it is from, for messages.
        tables: Options by stage; under the key "" those of a file without tables, which fit any stage.
        model: Changes of the model's card.
        base: Name of the recipe below, or None.
    """

    source: str
    tables: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, Any]
    base: str | None = None


def recipe_names() -> list[str]:
    """The published recipes."""
    return sorted([card.id for card in list_cards() if card.training] + [path.stem for path in FOLDER.glob("*.toml")])


def find_recipe(name: str) -> list[Recipe]:
    """A recipe and those below it, the lowest first.

    Args:
        name: Of a published recipe, or a path.

    Raises:
        InputError: There is no such recipe, the name could mean two things, or a file is not a recipe.
    """
    layers: list[Recipe] = []
    wanted: str | None = name
    while wanted is not None:
        if any(layer.source == wanted for layer in layers):
            raise InputError(f"Recipe {name} is based on itself.", "Correct `base`.")
        layers.append(_read_one(wanted, name))
        wanted = layers[-1].base
    return layers[::-1]


def read_options(name: str, stage: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The options that a recipe gives a stage, as (source, table) pairs, the lowest first.

    Raises:
        InputError: See `find_recipe`; or the recipe has tables, and none for this stage.
    """
    layers = find_recipe(name)
    found = [(layer.source, layer.tables[key]) for layer in layers for key in (stage, "") if key in layer.tables]
    if not found and not any(layer.model for layer in layers):
        tables = sorted({key for layer in layers for key in layer.tables})
        raise InputError(f"{name} has no table [{stage}].", f"It has: {', '.join(tables) or 'none'}.")
    return found


def apply_recipe(card: Card, name: str) -> Card:
    """The card with the changes that a recipe makes to the model.

    Raises:
        InputError: See `find_recipe`.
        CardError: The changed card is none.
    """
    document: dict[str, Any] = copy.deepcopy(dict(card.document))
    changes = [layer.model for layer in find_recipe(name) if layer.model]
    if not changes:
        return card
    for change in changes:
        _merge(document, change, name)
    return parse_card(document, card.directory / "card.toml")


def _read_one(wanted: str, name: str) -> Recipe:
    published = {path.stem: path for path in FOLDER.glob("*.toml")}
    cards = {card.id: card for card in list_cards() if card.training}
    path = Path(wanted)
    known = wanted in published or wanted in cards
    if known and path.is_file():
        raise InputError(
            f"--config {wanted} could be the published recipe or the file of that name.",
            f"Write ./{wanted} for the file.",
        )
    if wanted in cards:
        return Recipe(wanted, cards[wanted].training, {})
    if wanted in published:
        return _parse(wanted, published[wanted])
    if not path.suffix and not path.exists():
        near = difflib.get_close_matches(wanted, [*published, *cards], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"The recipes are: {', '.join(recipe_names())}; or give a file."
        raise InputError(f"There is no recipe {wanted!r}.", hint)
    return _parse(wanted, path)


def _parse(source: str, path: Path) -> Recipe:
    document = read_user_toml(path, "Config file", "Check --config.")
    base = document.pop(_BASE, None)
    if base is not None and not isinstance(base, str):
        raise InputError(f"{path}: {_BASE} is {base!r}.", "Give the name of a recipe.")
    _refuse_unknown_tables(path, document)
    tables = {key: value for key, value in document.items() if key in (*STAGES, _MODEL) and isinstance(value, Mapping)}
    if not tables:
        return Recipe(source, {"": document} if document else {}, {}, base)
    for key in document:
        if key not in tables:
            raise InputError(
                f"{path}: {key} stands beside the table of a training stage.",
                f"Put it inside [{next(iter(tables))}], or leave out the tables altogether.",
            )
    return Recipe(source, tables, tables.pop(_MODEL, {}), base)


def _refuse_unknown_tables(path: Path, document: Mapping[str, Any]) -> None:
    for key, value in document.items():
        if isinstance(value, Mapping) and key not in (*STAGES, _MODEL):
            near = difflib.get_close_matches(key, (*STAGES, _MODEL), n=1)
            hint = f"Did you mean [{near[0]}]?" if near else f"The tables are: {', '.join((*STAGES, _MODEL))}."
            raise InputError(f"{path} has an unknown table [{key}].", hint)


def _merge(document: dict[str, Any], change: Mapping[str, Any], name: str, prefix: str = "") -> None:
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), Mapping):
            _merge(document[key], value, name, f"{prefix}{key}.")
        elif isinstance(value, Mapping) or isinstance(document.get(key), Mapping):
            raise InputError(
                f"Recipe {name} changes {prefix}{key}, which the model's card does not have in this form.",
                "Use a model of the recipe's family.",
            )
        else:
            document[key] = value

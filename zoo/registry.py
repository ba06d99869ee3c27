"""The models at hand: the cards that ship with the package, and model folders on disk."""

import difflib
import itertools
from dataclasses import replace
from pathlib import Path

from .card import Card, WeightsCard, read_card
from .errors import CardError, UnknownModelError
from .inventory import is_present
from .names import parse_model_name

DEFAULT_MODEL = "ccella-pp/phantom"
_ROOM = Path(__file__).parent


def list_cards() -> list[Card]:
    """Every card that ships with the package, sorted by id.

    Raises:
        CardError: A card is malformed, or two share an id.
    """
    paths = [*_ROOM.glob("cards/*.toml"), *_ROOM.glob("bundled/*/card.toml")]
    cards = sorted((read_card(path) for path in paths), key=lambda card: card.id)
    for first, second in itertools.pairwise(cards):
        if first.id == second.id:
            raise CardError(f"Two cards have the id {first.id!r}.", "Give each card an id of its own.")
    return cards


def find_card(name: str) -> Card:
    """The card that a model's name means.

    Args:
        name: `family`, `family/variant`, or a directory; `@revision` replaces the revision of every Hub file of the
            card.

    Raises:
        UnknownModelError: No such model; the remedy names the nearest one.
        CardError: The card is malformed, or a revision is asked of a model without Hub files.
    """
    cards = {card.id: card for card in list_cards()}
    parsed = parse_model_name(name, set(cards))
    if parsed.directory is not None:
        if not (parsed.directory / "card.toml").is_file():
            raise UnknownModelError(
                f"{name!r} is not a model folder: {parsed.directory / 'card.toml'} does not exist.",
                "Give the folder that `ccella train` wrote, or a name from `ccella zoo list`.",
            )
        return read_card(parsed.directory / "card.toml")
    assert parsed.id is not None  # parse_model_name returns one or the other
    if parsed.id not in cards:
        near = difflib.get_close_matches(parsed.id, cards, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"The zoo has: {', '.join(cards)}."
        raise UnknownModelError(f"There is no model {parsed.id!r}.", f"{hint} A folder is written ./{parsed.id}.")
    card = cards[parsed.id]
    return card if parsed.revision is None else _at_revision(card, parsed.revision)


def find_weights(name: str) -> WeightsCard:
    """The card whose weights a name means: of a feature extractor, or of a model as `find_card` has it."""
    from .extractors.card import list_extractors  # its package imports numpy, which `zoo list` can do without

    extractors = {card.id: card for card in list_extractors()}
    if name in extractors and parse_model_name(name, set(extractors)).id == name:
        return extractors[name]
    try:
        return find_card(name)
    except UnknownModelError as error:
        near = difflib.get_close_matches(name, extractors, n=1, cutoff=0.4)
        if not near:
            raise
        raise UnknownModelError(str(error), f"Did you mean the feature extractor {near[0]}? {error.remedy}") from None


def _at_revision(card: Card, revision: str) -> Card:
    if len(revision) != 40 or not set(revision) <= set("0123456789abcdef"):
        raise CardError(f"Revision {revision!r} is not a commit.", "Give the 40 hexadecimal digits of a commit.")
    if not any(file.repo for part in card.parts.values() for file in part.files):
        raise CardError(f"Model {card.id} has no files on the Hub, so no revisions.", f"Write {card.id} alone.")
    parts = {}
    for name, part in card.parts.items():
        # Another commit may hold other bytes: the pinned digests speak of the card's own revision only.
        files = tuple(
            replace(file, revision=revision, sha256="unpinned", size=None) if file.repo else file for file in part.files
        )
        parts[name] = replace(part, files=files)
    return replace(card, parts=parts)


def availability(card: Card) -> str:
    """One word or phrase on what is needed before the model can sample: ready, pull, or train or import."""
    missing = [part.name for part in card.parts.values() if not part.files]
    if missing:
        return f"train or import: {', '.join(missing)}"
    return "ready" if is_present(card) else "pull"

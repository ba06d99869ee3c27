"""Cards of feature extractors. Nothing here imports torch."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..card import FileRef, Licence, Part, parse_licence, parse_part
from ..errors import CardError, UnknownModelError
from ..tables import Table

SCHEMA = 1
INPUTS = ("volume", "slice")


@dataclass(frozen=True)
class ExtractorCard:
    """A feature extractor of the zoo.

    Attributes:
        id: The name that `--features` takes.
        inputs: What it takes, of INPUTS.
        architecture: Which code builds it.
        preprocessing: Names the fixed way from an image in 0..1 to the network's input.
        files: Its weights; none where it needs none.
        directory: The card's folder.
    """

    id: str
    title: str
    description: str
    inputs: tuple[str, ...]
    architecture: str
    preprocessing: str
    files: tuple[FileRef, ...]
    licence: Licence
    citation: str
    directory: Path

    @property
    def parts(self) -> Mapping[str, Part]:
        """Its one network, as a model lists its own."""
        return {"network": Part("network", self.architecture, {}, self.files, "")}


def read_extractor(path: Path) -> ExtractorCard:
    """Reads and checks an extractor's card; CardError names the file and the key."""
    try:
        top = Table(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is not valid TOML: {error}.", "Correct the card.") from error
    top.allow(
        "schema", "id", "title", "description", "inputs", "preprocessing", "network", "licence", "citation"
    )  # fmt: skip
    if top.integer("schema") != SCHEMA:
        raise top.fail("schema", f"{SCHEMA}", "This version of ccella reads schema 1; update ccella.")
    inputs = top.texts("inputs")
    if not inputs or not set(inputs) <= set(INPUTS):
        raise top.fail("inputs", f"some of {', '.join(INPUTS)}")
    network = parse_part("network", top.table("network"))
    return ExtractorCard(
        id=top.text("id"),
        title=top.text("title"),
        description=top.text("description"),
        inputs=inputs,
        architecture=network.architecture,
        preprocessing=top.text("preprocessing"),
        files=network.files,
        licence=parse_licence(top.table("licence")),
        citation=top.text("citation"),
        directory=path.parent,
    )


def list_extractors() -> list[ExtractorCard]:
    """Every extractor's card, sorted by id."""
    cards = [read_extractor(path) for path in Path(__file__).parent.glob("*.toml")]
    return sorted(cards, key=lambda card: card.id)


def find_extractor(name: str) -> ExtractorCard:
    """The extractor called `name`; UnknownModelError names the nearest one."""
    cards = {card.id: card for card in list_extractors()}
    if name not in cards:
        near = difflib.get_close_matches(name, cards, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(cards)}."
        raise UnknownModelError(f"There is no feature extractor {name!r}.", hint)
    return cards[name]

"""Cards: what a model is, as data. A card is a TOML file; nothing here imports torch."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from ..imaging.spec import Channel, ImageSpec
from .errors import CardError
from .generation import Generation, LatentSpec, Preset, SamplerDefaults, Schedule, parse_generation
from .tables import Table

SCHEMA = 1
UNPINNED = "unpinned"


@dataclass(frozen=True)
class FileRef:
    """One file of a part.

    Attributes:
        path: Path inside the repository, or inside the card's own folder when `repo` is None.
        repo: Hugging Face Hub repository, or None.
        revision: 40 hexadecimal digits, or "unpinned" where the sources do not state one.
        sha256: 64 hexadecimal digits, or "unpinned".
        size: Bytes, or None where not known.
    """

    path: str
    repo: str | None
    revision: str | None
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Part:
    """A network of a model: what builds it and where its weights lie.

    Attributes:
        checkpoint: A public file that `ccella zoo import` turns into the weights; it is never loaded itself.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    files: tuple[FileRef, ...]
    note: str
    checkpoint: FileRef | None = None

    @property
    def public_files(self) -> tuple[FileRef, ...]:
        """What there is to pull or carry along: the weights, or the checkpoint that they are still to be made of."""
        return self.files or (() if self.checkpoint is None else (self.checkpoint,))


@dataclass(frozen=True)
class Licence:
    """Terms of the weights; `restricted` ones must be accepted before use."""

    id: str
    name: str
    url: str
    restricted: bool


class WeightsCard(Protocol):
    """What pulling and checking weights needs to know: of a model, or of a feature extractor."""

    @property
    def id(self) -> str: ...

    @property
    def licence(self) -> Licence: ...

    @property
    def parts(self) -> Mapping[str, Part]: ...

    @property
    def directory(self) -> Path: ...


@dataclass(frozen=True)
class Card:
    """A model of the zoo. See docs/cards.md for the file's keys.

    Attributes:
        generation: How it makes images; None for a classifier.
        directory: The folder the card was read from; local files of parts are relative to it.
        document: The parsed TOML itself, from which a trained model's card is derived.
    """

    id: str
    family: str
    title: str
    description: str
    image: ImageSpec
    generation: Generation | None
    conditions: tuple[str, ...]
    training: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Part]
    licence: Licence
    citation: str
    intended_use: str
    measured: Mapping[str, Any]
    provenance: Mapping[str, Any]
    directory: Path
    document: Mapping[str, Any]

    def _generates(self) -> Generation:
        if self.generation is None:
            raise CardError(f"Model {self.id} makes no images: its card has no latent space.", "Name another --model.")
        return self.generation

    @property
    def latent(self) -> LatentSpec:
        """The latent space; CardError for a classifier."""
        return self._generates().latent

    @property
    def schedule(self) -> Schedule:
        """The forward diffusion; CardError for a classifier."""
        return self._generates().schedule

    @property
    def sampler(self) -> SamplerDefaults:
        """How it is sampled; CardError for a classifier."""
        return self._generates().sampler

    @property
    def presets(self) -> Mapping[str, Preset]:
        """Named ways of sampling it, in the card's order; CardError for a classifier."""
        return self._generates().presets

    def with_generation(self, **changes: Any) -> "Card":
        """The card with another `latent`, `schedule` or `sampler`."""
        return replace(self, generation=replace(self._generates(), **changes))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent: channels, then the image's axes divided by the downsampling factor."""
        return (self.latent.channels, *(n // self.latent.downsample for n in self.image.shape))

    def part(self, name: str) -> Part:
        """The part called `name`; CardError when the card has none."""
        if name not in self.parts:
            raise CardError(f"Model {self.id} has no part {name!r}.", f"Its parts are: {', '.join(self.parts)}.")
        return self.parts[name]


def read_card(path: Path) -> Card:
    """Reads and checks a card.

    Args:
        path: A TOML file.

    Returns:
        The card.

    Raises:
        CardError: The file is missing, is not TOML, lacks a key, or has a key or value that means nothing.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CardError(f"There is no card at {path}.", "A model folder holds a card.toml.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is not valid TOML: {error}.", "Correct the card.") from error
    return parse_card(document, path)


def parse_card(document: Mapping[str, Any], path: Path) -> Card:
    """Checks a parsed card document; `path` is named in errors and its folder holds the card's local files."""
    top = Table(document, path)
    top.allow(
        "schema", "id", "family", "title", "description", "intended_use", "conditions", "citation",
        "image", "latent", "schedule", "sampler", "presets", "training", "parts", "licence", "measured", "provenance",
    )  # fmt: skip
    if top.integer("schema") != SCHEMA:
        raise top.fail("schema", f"{SCHEMA}", "This version of ccella reads schema 1; update ccella.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)?", top.text("id")):
        raise top.fail("id", "family or family/variant in lower case letters, digits, dots and hyphens")
    image = _image(top.table("image"))
    parts = {name: parse_part(name, top.table("parts").table(name)) for name in top.table("parts").data}
    training = top.table("training", {})
    return Card(
        id=top.text("id"),
        family=top.text("family"),
        title=top.text("title"),
        description=top.text("description"),
        image=image,
        generation=parse_generation(top, image),
        conditions=top.texts("conditions", ()),
        training=MappingProxyType({name: training.table(name).data for name in training.data}),
        parts=MappingProxyType(parts),
        licence=parse_licence(top.table("licence")),
        citation=top.text("citation"),
        intended_use=top.text("intended_use"),
        measured=top.table("measured", {}).data,
        provenance=top.table("provenance", {}).data,
        directory=path.parent,
        document=document,
    )


def _image(table: Table) -> ImageSpec:
    table.allow("axes", "shape", "spacing_mm", "orientation", "channels")
    axes = table.choice("axes", ("xyz", "yx"))
    shape = table.integers("shape")
    if len(shape) != len(axes) or min(shape, default=0) < 1:
        raise table.fail("shape", f"{len(axes)} positive sizes, one per axis of {axes!r}")
    spacing = table.numbers("spacing_mm") if "spacing_mm" in table.data else None
    if spacing is not None and (len(spacing) != len(axes) or min(spacing) <= 0):
        raise table.fail("spacing_mm", f"{len(axes)} positive numbers")
    channels = []
    for row in table.tables("channels"):
        row.allow("name", "unit", "intensity", "description")
        intensity = row.table("intensity").data
        channels.append(Channel(row.text("name"), row.text("unit"), intensity, row.text("description", "")))
    if not channels:
        raise table.fail("channels", "at least one channel")
    orientation = table.text("orientation") if "orientation" in table.data else None
    return ImageSpec(axes, shape, spacing, orientation, tuple(channels))


def parse_part(name: str, table: Table) -> Part:
    """Checks the table of a part; CardError names the key."""
    table.allow("architecture", "config", "files", "note", "checkpoint")
    files = tuple(_parse_file(row) for row in table.tables("files"))
    checkpoint = _parse_file(table.table("checkpoint")) if "checkpoint" in table.data else None
    if checkpoint is not None and checkpoint.repo is None:
        raise table.fail("checkpoint", "a file of a repository", "Give its repo, revision, path and sha256.")
    config = table.table("config").data
    return Part(name, table.text("architecture"), config, files, table.text("note", ""), checkpoint)


def _parse_file(row: Table) -> FileRef:
    row.allow("path", "repo", "revision", "sha256", "size")
    repo = row.text("repo") if "repo" in row.data else None
    revision = row.text("revision") if "revision" in row.data else None
    if repo is not None and revision != UNPINNED and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise row.fail("revision", 'a commit of 40 hexadecimal digits, or "unpinned"')
    if row.text("sha256") != UNPINNED and not re.fullmatch(r"[0-9a-f]{64}", row.text("sha256")):
        raise row.fail("sha256", '64 hexadecimal digits, or "unpinned"')
    path = row.text("path")
    if path.startswith("/") or ".." in Path(path).parts:
        raise row.fail("path", "a relative path that stays inside the model")
    size = row.integer("size") if "size" in row.data else None
    return FileRef(path, repo, revision, row.text("sha256"), size)


def parse_licence(table: Table) -> Licence:
    """Checks the table of a licence; CardError names the key."""
    table.allow("id", "name", "url", "restricted")
    return Licence(table.text("id"), table.text("name"), table.text("url", ""), table.flag("restricted", False))

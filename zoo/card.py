"""Cards: what a model is, as data. A card is a TOML file; nothing here imports torch."""

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..imaging.spec import Channel, ImageSpec
from .errors import CardError
from .tables import Table

SCHEMA = 1
UNPINNED = "unpinned"
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2", "rectified_flow")
PRECONDITIONINGS = ("none", "edm")
SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "unipc", "euler")


@dataclass(frozen=True)
class LatentSpec:
    """The space in which the denoiser works.

    Attributes:
        channels: Channels of one latent, all image channels together.
        channels_per_image_channel: Latent channels that belong to one image channel.
        downsample: Voxels per latent voxel along each axis.
        scale: Factors that bring the training latents of each image channel to unit standard deviation: one per image
            channel, or one per latent channel. None until trained.
        mean: Of each latent channel after scaling, over the training set; None unless preconditioned and trained.
        std: Standard deviation of each latent channel likewise.
    """

    channels: int
    channels_per_image_channel: int
    downsample: int
    scale: tuple[float, ...] | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Schedule:
    """The forward diffusion: how noise grows over the training timesteps, and what the network predicts.

    A rectified flow has beta_schedule "rectified_flow", prediction "flow", no betas, and the sampler "euler".
    Preconditioning is "none" or "edm"; see diffusion/preconditioning.py.
    """

    train_timesteps: int
    beta_schedule: str
    beta_start: float
    beta_end: float
    prediction: str
    preconditioning: str = "none"


@dataclass(frozen=True)
class SamplerDefaults:
    """How the model is sampled unless the user says otherwise.

    Attributes:
        name: One of SAMPLERS.
        steps: Number of network evaluations.
        guidance_scale: Classifier-free guidance; 1.0 is none.
        eta: Share of ancestral noise in DDIM, 0 to 1.
        timesteps: The timestep table for `steps`, descending; None means the quadratic table of `steps`.
    """

    name: str
    steps: int
    guidance_scale: float
    eta: float
    timesteps: tuple[int, ...] | None


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
    """A network of a model: what builds it and where its weights lie."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    files: tuple[FileRef, ...]
    note: str


@dataclass(frozen=True)
class Licence:
    """Terms of the weights; `restricted` ones must be accepted before use."""

    id: str
    name: str
    url: str
    restricted: bool


@dataclass(frozen=True)
class Card:
    """A model of the zoo. See docs/cards.md for the file's keys.

    Attributes:
        directory: The folder the card was read from; local files of parts are relative to it.
        document: The parsed TOML itself, from which a trained model's card is derived.
    """

    id: str
    family: str
    title: str
    description: str
    image: ImageSpec
    latent: LatentSpec
    conditions: tuple[str, ...]
    schedule: Schedule
    sampler: SamplerDefaults
    training: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Part]
    licence: Licence
    citation: str
    intended_use: str
    measured: Mapping[str, Any]
    provenance: Mapping[str, Any]
    directory: Path
    document: Mapping[str, Any]

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
        "image", "latent", "schedule", "sampler", "training", "parts", "licence", "measured", "provenance",
    )  # fmt: skip
    if top.integer("schema") != SCHEMA:
        raise top.fail("schema", f"{SCHEMA}", "This version of ccella reads schema 1; update ccella.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)?", top.text("id")):
        raise top.fail("id", "family or family/variant in lower case letters, digits, dots and hyphens")
    image = _image(top.table("image"))
    latent = _latent(top.table("latent"), image)
    parts = {name: _part(name, top.table("parts").table(name)) for name in top.table("parts").data}
    training = top.table("training", {})
    return Card(
        id=top.text("id"),
        family=top.text("family"),
        title=top.text("title"),
        description=top.text("description"),
        image=image,
        latent=latent,
        conditions=top.texts("conditions", ()),
        schedule=_schedule(top.table("schedule")),
        sampler=_sampler(top.table("sampler"), top.table("schedule").integer("train_timesteps", minimum=1)),
        training=MappingProxyType({name: training.table(name).data for name in training.data}),
        parts=MappingProxyType(parts),
        licence=_licence(top.table("licence")),
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


def _latent(table: Table, image: ImageSpec) -> LatentSpec:
    table.allow("channels", "channels_per_image_channel", "downsample", "scale", "mean", "std")
    channels = table.integer("channels", minimum=1)
    each = table.integer("channels_per_image_channel", channels, minimum=1)
    downsample = table.integer("downsample", minimum=1)
    for size in image.shape:
        if size % downsample:
            raise table.fail("downsample", f"a divisor of every size of image.shape {list(image.shape)}")
    scale = table.numbers("scale") if "scale" in table.data else None
    if scale is not None and (len(scale) not in (channels // each, channels) or min(scale) <= 0):
        raise table.fail("scale", f"{channels // each} or {channels} positive numbers")
    mean = table.numbers("mean") if "mean" in table.data else None
    std = table.numbers("std") if "std" in table.data else None
    if mean is not None and len(mean) != channels:
        raise table.fail("mean", f"{channels} numbers")
    if std is not None and (len(std) != channels or min(std) <= 0):
        raise table.fail("std", f"{channels} positive numbers")
    return LatentSpec(channels, each, downsample, scale, mean, std)


def _schedule(table: Table) -> Schedule:
    table.allow("train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction", "preconditioning")
    kind, prediction = table.choice("beta_schedule", BETA_SCHEDULES), table.choice("prediction", PREDICTIONS)
    flow = kind == "rectified_flow"
    if flow != (prediction == "flow"):
        raise table.fail("prediction", '"flow" exactly where beta_schedule is "rectified_flow"')
    preconditioning = table.choice("preconditioning", PRECONDITIONINGS, "none")
    if preconditioning != "none" and prediction != "sample":
        raise table.fail("preconditioning", '"none", or prediction "sample"')
    return Schedule(
        table.integer("train_timesteps", minimum=1),
        kind,
        table.number("beta_start", 0.0 if flow else None),
        table.number("beta_end", 0.0 if flow else None),
        prediction,
        preconditioning,
    )


def _sampler(table: Table, train_timesteps: int) -> SamplerDefaults:
    table.allow("name", "steps", "guidance_scale", "eta", "timesteps")
    steps = table.integer("steps", minimum=1)
    timesteps = table.integers("timesteps") if "timesteps" in table.data else None
    if timesteps is not None:
        descending = all(a > b for a, b in itertools.pairwise(timesteps))
        if len(timesteps) != steps or not descending or not 0 <= timesteps[-1] <= timesteps[0] < train_timesteps:
            raise table.fail("timesteps", f"{steps} descending timesteps below {train_timesteps}")
    return SamplerDefaults(
        table.choice("name", SAMPLERS), steps, table.number("guidance_scale", 1.0), table.number("eta", 0.0), timesteps
    )


def _part(name: str, table: Table) -> Part:
    table.allow("architecture", "config", "files", "note")
    files = []
    for row in table.tables("files"):
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
        files.append(FileRef(path, repo, revision, row.text("sha256"), size))
    return Part(name, table.text("architecture"), table.table("config").data, tuple(files), table.text("note", ""))


def _licence(table: Table) -> Licence:
    table.allow("id", "name", "url", "restricted")
    return Licence(table.text("id"), table.text("name"), table.text("url", ""), table.flag("restricted", False))

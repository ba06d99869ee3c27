"""How a card says that its model makes images: latent space, forward diffusion and sampler."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..imaging.spec import ImageSpec
from .tables import Table

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2", "rectified_flow")
PRECONDITIONINGS = ("none", "edm")
SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "unipc", "euler")
_SAMPLER_KEYS = ("steps", "guidance_scale", "guidance_interval", "eta", "timesteps", "last_timestep")


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
        distilled: The network is a student that was trained for this table alone.
        last_timestep: Where the quadratic table of another number of steps ends: the least noise at which the network
            has something to say.
        guidance_interval: Least and greatest timestep that are guided; None means all.
    """

    name: str
    steps: int
    guidance_scale: float
    eta: float
    timesteps: tuple[int, ...] | None
    distilled: bool = False
    last_timestep: int = 0
    guidance_interval: tuple[int, int] | None = None


def guidance_words(scale: float, interval: tuple[int, int] | None) -> str:
    """Guidance for people, such as "guidance 1.5 at timesteps 400 to 999"."""
    words = f"guidance {scale:g}"
    return words if interval is None or scale == 1.0 else f"{words} at timesteps {interval[0]} to {interval[1]}"


@dataclass(frozen=True)
class Preset:
    """A named way of sampling the model, for people who want speed or fidelity and not a solver's name.

    Attributes:
        sampler: What it sets.
        measured: Figures of its fidelity on this model, as measured; empty where there are none.
    """

    sampler: SamplerDefaults
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class Generation:
    """What a model that makes images has and a classifier lacks."""

    latent: LatentSpec
    schedule: Schedule
    sampler: SamplerDefaults
    presets: Mapping[str, Preset] = field(default_factory=dict)


def parse_generation(top: Table, image: ImageSpec) -> Generation | None:
    """Reads the tables `latent`, `schedule`, `sampler` and `presets`; None where the card has none of them."""
    if not {"latent", "schedule", "sampler", "presets"} & set(top.data):
        return None
    schedule = _schedule(top.table("schedule"))
    table = top.table("sampler")
    table.allow("name", "distilled", *_SAMPLER_KEYS)
    sampler = _sampler(table, "name", schedule, None)
    presets = {}
    group = top.table("presets", {})
    for name in group.data:
        table = group.table(name)
        table.allow("sampler", "measured", *_SAMPLER_KEYS)
        # What guidance and the last timesteps do depends on the model, not on the solver: presets share the model's.
        chosen = _sampler(table, "sampler", schedule, sampler)
        presets[name] = Preset(chosen, MappingProxyType(dict(table.table("measured", {}).data)))
    return Generation(_latent(top.table("latent"), image), schedule, sampler, MappingProxyType(presets))


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


def _sampler(table: Table, name_key: str, schedule: Schedule, model: SamplerDefaults | None) -> SamplerDefaults:
    """A table of the card; `model` is what a preset leaves to the model's own sampler."""
    steps = table.integer("steps", minimum=1)
    train_timesteps = schedule.train_timesteps
    if steps > train_timesteps:
        raise table.fail("steps", f"at most the {train_timesteps} timesteps of training")
    timesteps = table.integers("timesteps") if "timesteps" in table.data else None
    if timesteps is not None:
        descending = all(a > b for a, b in itertools.pairwise(timesteps))
        if len(timesteps) != steps or not descending or not 0 <= timesteps[-1] <= timesteps[0] < train_timesteps:
            raise table.fail("timesteps", f"{steps} descending timesteps below {train_timesteps}")
    last = table.integer("last_timestep", 0 if model is None else model.last_timestep, minimum=0)
    if last and schedule.beta_schedule == "rectified_flow":
        raise table.fail("last_timestep", "0 for a rectified flow, whose timesteps are even")
    if timesteps is None and steps > train_timesteps - last:
        raise table.fail("last_timestep", f"at most {train_timesteps - steps}, which leaves {steps} timesteps")
    distilled = table.flag("distilled", False)
    if distilled and timesteps is None:
        raise table.fail("timesteps", "the table that the student was trained for")
    return SamplerDefaults(
        table.choice(name_key, SAMPLERS),
        steps,
        table.number("guidance_scale", 1.0 if model is None else model.guidance_scale),
        table.number("eta", 0.0),
        timesteps,
        distilled,
        last,
        _interval(table, train_timesteps, None if model is None else model.guidance_interval),
    )


def _interval(table: Table, train_timesteps: int, default: tuple[int, int] | None) -> tuple[int, int] | None:
    if "guidance_interval" not in table.data:
        return default
    interval = table.integers("guidance_interval")
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] < train_timesteps:
        raise table.fail("guidance_interval", f"two ascending timesteps below {train_timesteps}")
    return interval[0], interval[1]

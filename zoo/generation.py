"""How a card says that its model makes images: latent space, forward diffusion and sampler."""

import itertools
from dataclasses import dataclass

from ..imaging.spec import ImageSpec
from .tables import Table

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
class Generation:
    """What a model that makes images has and a classifier lacks."""

    latent: LatentSpec
    schedule: Schedule
    sampler: SamplerDefaults


def parse_generation(top: Table, image: ImageSpec) -> Generation | None:
    """Reads the tables `latent`, `schedule` and `sampler`; None where the card has none of them."""
    if not {"latent", "schedule", "sampler"} & set(top.data):
        return None
    timesteps = top.table("schedule").integer("train_timesteps", minimum=1)
    return Generation(
        _latent(top.table("latent"), image), _schedule(top.table("schedule")), _sampler(top.table("sampler"), timesteps)
    )


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

"""How a run samples: the card's defaults and what the user set instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.generation import SAMPLERS, SamplerDefaults, guidance_words
from .run_settings import runtime_setting

if TYPE_CHECKING:
    from ..export.runtimes import Runtime


@dataclass(frozen=True)
class SampleSettings:
    """Everything that decides what comes out for a prompt and a seed, and the batch size, which does not.

    Attributes:
        sampler: One of zoo.card.SAMPLERS.
        timesteps: Timestep table, descending; its length is the number of steps.
        guidance_scale: Classifier-free guidance; 1.0 is none.
        eta: Share of ancestral noise in DDIM.
        batch_size: Items denoised together.
        latents_only: Write latents for `decode` instead of images.
        memory_bytes: What decoding may take, see `decode.decode_images`, and a batch, see `batching.fit_batch_size`.
        guidance_interval: Least and greatest timestep that are guided; None means all, or none where the scale is 1.
    """

    sampler: str
    timesteps: tuple[int, ...]
    guidance_scale: float
    eta: float
    batch_size: int = 1
    latents_only: bool = False
    memory_bytes: int | None = None
    guidance_interval: tuple[int, int] | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """Guidance scale at each timestep; 1.0 is none."""
        from ..diffusion.guidance import guidance_scales

        return guidance_scales(self.timesteps, self.guidance_scale, self.guidance_interval)

    @property
    def kinds_of_step(self) -> dict[str, list[int]]:
        """Entries of the timestep table by the work that they cost.

        "step" holds the guided ones, which evaluate the network twice, or all where all are alike; "step without
        guidance" the rest.
        """
        scales = self.guidance_scales
        guided = [i for i, scale in enumerate(scales) if scale != 1.0]
        plain = [i for i, scale in enumerate(scales) if scale == 1.0]
        return {"step": guided, "step without guidance": plain} if guided and plain else {"step": guided or plain}

    @property
    def guidance_words(self) -> str:
        """Guidance for people."""
        return guidance_words(self.guidance_scale, self.guidance_interval)

    def entry(self) -> dict[str, Any]:
        """The sidecar's `sampler`."""
        return {
            "name": self.sampler,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": None if self.guidance_interval is None else list(self.guidance_interval),
            "eta": self.eta,
            "timesteps": list(self.timesteps),
        }

    def run_settings(
        self, model: Mapping[str, Any], precision: str, runtime: "Runtime | None" = None
    ) -> dict[str, Any]:
        """What a resumed run must have in common with the first, for RunFolder; PyTorch executes when None."""
        return {
            "model": dict(model),
            "sampler": self.entry(),
            "latents": self.latents_only,
            "precision": precision,
            **({} if runtime is None else runtime_setting(runtime)),
        }


def choose_settings(
    card: Card,
    *,
    preset: str | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: Sequence[int] | None = None,
    eta: float | None = None,
    timesteps: Sequence[int] | None = None,
    batch_size: int = 1,
    latents_only: bool = False,
) -> SampleSettings:
    """Fills what the user left open from the card, or from one of its presets.

    The own timestep table of the card or preset serves its own number of steps; another number takes the quadratic
    table down to its last timestep, or an even one for a rectified flow.

    Args:
        card: The model.
        preset: One of the card's presets, which stands in for the card's defaults; the other arguments overrule it.
        sampler: One of zoo.card.SAMPLERS.
        steps: Number of steps.
        guidance_scale: Classifier-free guidance.
        guidance_interval: Least and greatest timestep that are guided.
        eta: Share of ancestral noise in DDIM; the card's own holds for the card's own sampler only.
        timesteps: A whole table, instead of `steps`.
        batch_size: Items denoised together.
        latents_only: Write latents.

    Raises:
        InputError: A value that is out of range, or two that contradict each other.
    """
    # Imported late: the table's module needs torch by way of its neighbours.
    from ..diffusion.samplers import is_stochastic
    from ..diffusion.timesteps import check_table
    from ..zoo.forward import choose_timesteps

    default = card.sampler if preset is None else _find_preset(card, preset)
    name = _check_sampler(card, sampler if sampler is not None else default.name)
    if batch_size < 1:
        raise InputError(f"Batch size {batch_size} is below 1.", "Give at least 1.")
    scale, interval = _choose_guidance(card, default, guidance_scale, guidance_interval)
    share = eta if eta is not None else default.eta if name == default.name else 0.0
    if timesteps is not None and steps is not None and len(timesteps) != steps:
        raise InputError(f"{steps} steps do not go with a table of {len(timesteps)} timesteps.", "Give one of the two.")
    count = steps if steps is not None else default.steps
    train = card.schedule.train_timesteps
    try:
        is_stochastic(name, share)
        table = check_table(timesteps, train) if timesteps is not None else choose_timesteps(card, default, count)
    except ValueError as error:
        whole = next((name for name, other in card.presets.items() if other.sampler.steps == train), None)
        hint = f" Preset {whole!r} visits all {train} timesteps." if whole is not None and preset != whole else ""
        raise InputError(str(error), f"Change the sampler's options.{hint}") from error
    own = card.sampler
    if own.distilled and (name, table, share, scale) != (own.name, own.timesteps, own.eta, own.guidance_scale):
        raise InputError(
            f"Model {card.id} is a student of {own.steps} steps: it knows its own timestep table, sampler and guidance "
            "alone.",
            "Leave out --sampler, --steps, --guidance and the like, or sample with its teacher.",
        )
    return SampleSettings(name, table, scale, float(share), batch_size, latents_only, guidance_interval=interval)


def _check_sampler(card: Card, name: str) -> str:
    if name not in SAMPLERS:
        raise InputError(f"Sampler {name!r} is unknown.", f"Use one of {', '.join(SAMPLERS)}.")
    flow = card.schedule.prediction == "flow"
    if (name == "euler") != flow:
        fitting = [other for other in SAMPLERS if (other == "euler") == flow]
        raise InputError(
            f"Sampler {name!r} does not go with model {card.id}, which is {'' if flow else 'not '}a rectified flow.",
            f"Use {', '.join(fitting)}.",
        )
    return name


def _choose_guidance(
    card: Card, default: SamplerDefaults, scale: float | None, interval: Sequence[int] | None
) -> tuple[float, tuple[int, int] | None]:
    """Scale and interval: those that were given, else the default's; a scale of 1 has no interval."""
    chosen = float(default.guidance_scale if scale is None else scale)
    if not 0.0 <= chosen < float("inf"):
        raise InputError(f"Guidance scale {chosen} is not a number of at least 0.", "1 is no guidance; try 1 to 5.")
    if chosen != 1.0:
        return chosen, default.guidance_interval if interval is None else _check_interval(interval, card)
    if interval is not None:
        raise InputError(
            "A guidance scale of 1 is no guidance, which has no interval.", "Give another scale, or no interval."
        )
    return chosen, None


def _check_interval(interval: Sequence[int], card: Card) -> tuple[int, int]:
    last = card.schedule.train_timesteps - 1
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= last:
        raise InputError(
            f"Guidance interval {list(interval)} is no range of timesteps of model {card.id}.",
            f"Give the least and the greatest one, 0,{last} for all.",
        )
    return interval[0], interval[1]


def _find_preset(card: Card, name: str) -> SamplerDefaults:
    if name not in card.presets:
        known = ", ".join(card.presets)
        raise InputError(
            f"Model {card.id} has no preset {name!r}.",
            f"Its presets are: {known}." if known else "It has none: use --sampler and --steps.",
        )
    return card.presets[name].sampler

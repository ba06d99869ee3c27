"""Options of a training run: each with its default, from the card, a TOML file and explicit values, in that order."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ..imaging.atomic import write_text
from ..imaging.errors import InputError
from .option_checks import check_options
from .recipes import read_options

LR_SCHEDULES = ("constant", "polynomial", "cosine")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
LOSSES = ("l1", "mse")
DENSITIES = ("uniform", "high_noise", "logit_normal")
WEIGHTINGS = ("none", "min_snr")
LATENT_SCALES = ("channel", "image")
WEIGHTS_DTYPES = ("float32", "float16", "bfloat16")
INITIAL = ("scratch", "card")
EXPORTED = ("last", "best")

# Options that change how a run is watched and stored but not the weights it ends with; a resumed run may change them.
FREE_OPTIONS = frozenset(
    {
        "log_every", "validate_every", "checkpoint_every", "keep_checkpoints", "export_every", "export_weights",
        "stop_after_min", "tensorboard", "samples_every", "sample_items", "sample_steps",
    }
)  # fmt: skip


def option(
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a dataclass of options; in a choice, N stands for any number."""
    limits = {"choices": choices, "minimum": minimum, "above": above, "maximum": maximum}
    return field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class LoopTraining:
    """Options of the loop itself, the same for every network.

    Attributes:
        seed: Of the weights' initial values, the data order and all noise. 0 is a seed like any other.
        steps: Optimizer steps of the whole run.
        epochs: Passes over the training items, instead of steps; 0 counts steps.
        batch_size: Items per optimizer step, over all processes and micro-batches together.
        accumulate: Micro-batches per process into which a step's items are split, to save memory.
        learning_rate: Peak learning rate of AdamW.
        lr_schedule: How the rate falls after the warm-up.
        lr_power: Exponent of the polynomial schedule.
        lr_final: Share of the peak rate left at the last step.
        warmup_steps: Steps of linear rise to the peak rate.
        weight_decay: Of AdamW.
        beta1: Of AdamW.
        beta2: Of AdamW.
        clip_norm: Largest gradient norm; 0 clips nothing.
        ema_decay: Decay of the averaged weights per step; 0 keeps no average.
        precision: Arithmetic of the forward pass; weights and optimizer stay in fp32. "auto" is bf16 on devices that
            compute in it, and fp32 on others.
        recompute_activations: Keep no activations inside the network's blocks and compute them again in the backward
            pass: less memory, about a third more time.
        channels_last: Store activations channels last, faster for convolutions on most devices.
        device: Where to train.
        weights_dtype: Type in which the trained weights are stored.
        initial: Start from random weights ("scratch") or from the card's ("card": fine-tuning).
        validation_fraction: Share of the patients kept for validation.
        validation_items: Most items a validation looks at.
        log_every: Steps between log lines.
        validate_every: Steps between validations; 0 validates at the end only.
        checkpoint_every: Steps between checkpoints; 0 saves at the end only.
        keep_checkpoints: Newest checkpoints kept.
        export_every: Steps between writings of the model folder; 0 writes it at the end only.
        export_weights: What the model folder gets at the end: the last weights, or those of the best validation.
        stop_after_min: Minutes after which the run saves and stops, to be resumed; 0 is no limit.
        tensorboard: Write event files for TensorBoard beside metrics.jsonl.
    """

    seed: int = option(0, minimum=0)
    steps: int = option(2000, minimum=1)
    epochs: float = option(0.0, minimum=0)
    batch_size: int = option(8, minimum=1)
    accumulate: int = option(1, minimum=1)
    learning_rate: float = option(1e-4, above=0)
    lr_schedule: str = option("polynomial", choices=LR_SCHEDULES)
    lr_power: float = option(2.0, above=0)
    lr_final: float = option(0.0, minimum=0, maximum=1)
    warmup_steps: int = option(0, minimum=0)
    weight_decay: float = option(0.01, minimum=0)
    beta1: float = option(0.9, minimum=0, maximum=1)
    beta2: float = option(0.999, minimum=0, maximum=1)
    clip_norm: float = option(1.0, minimum=0)
    ema_decay: float = option(0.999, minimum=0, maximum=1)
    precision: str = option("fp32", choices=PRECISIONS)
    recompute_activations: bool = option(False)
    channels_last: bool = option(False)
    device: str = option("auto", choices=DEVICES)
    weights_dtype: str = option("float32", choices=WEIGHTS_DTYPES)
    initial: str = option("scratch", choices=INITIAL)
    validation_fraction: float = option(0.05, minimum=0, maximum=0.9)
    validation_items: int = option(64, minimum=1)
    log_every: int = option(50, minimum=1)
    validate_every: int = option(500, minimum=0)
    checkpoint_every: int = option(500, minimum=0)
    keep_checkpoints: int = option(2, minimum=1)
    export_every: int = option(0, minimum=0)
    export_weights: str = option("last", choices=EXPORTED)
    stop_after_min: float = option(0.0, minimum=0)
    tensorboard: bool = option(False)

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(LoopTraining):
    """Options of autoencoder training.

    Attributes:
        kl_weight: Weight of the KL divergence, which is averaged over the latent's elements.
        pyramid_levels: Halvings of the image on which the absolute error is measured too.
        pyramid_weight: Weight of each halved level.
        gradient_weight: Weight of the absolute error of the image's finite differences.
        patch_shape: Size of the random patch trained on; empty for the whole image.
        flip_axes: Axes, by the letters of the card's image.axes, flipped at random half of the time.
        adversarial_weight: Weight of the patch discriminator's verdict; 0 trains without one.
        adversarial_start: Step at which the discriminator's verdict starts to count.
        discriminator_channels: Width of the discriminator's first layer.
        discriminator_layers: Strided layers of the discriminator.
    """

    learning_rate: float = option(1e-3, above=0)
    lr_schedule: str = option("cosine", choices=LR_SCHEDULES)
    kl_weight: float = option(1e-3, minimum=0)
    pyramid_levels: int = option(2, minimum=0)
    pyramid_weight: float = option(0.5, minimum=0)
    gradient_weight: float = option(0.5, minimum=0)
    patch_shape: tuple[int, ...] = option((), minimum=1)
    flip_axes: tuple[str, ...] = option(("x",))
    adversarial_weight: float = option(0.0, minimum=0)
    adversarial_start: int = option(0, minimum=0)
    discriminator_channels: int = option(32, minimum=1)
    discriminator_layers: int = option(3, minimum=1)


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining(LoopTraining):
    """Options of denoiser training. What the network predicts and the noise schedule stand in the card's [schedule].

    Attributes:
        loss: Distance between prediction and target.
        loss_weighting: "min_snr" weights each item by its timestep (Hang et al. 2023).
        min_snr_gamma: Cap on the signal-to-noise ratio of that weighting.
        timestep_density: From which density timesteps are drawn.
        class_weight: Weight of the class head's focal loss on one-hot targets.
        focal_gamma: Focusing exponent of the focal loss.
        focal_alpha: Weight of the positive class in it.
        condition_dropout: Probability that an item's report is replaced by the empty one.
        channel_weights: Weight of each image channel in the loss, normalised to mean 1; empty for equal weights.
        latent_scale: What brings latents to unit deviation: one factor per image channel ("channel"), or one per latent
            channel by what it does to the decoded image ("image"), so that coarse structure stands out of the noise
            first.
        regions: Folder with a mask per exam; see `regions.RegionMaps`. Empty for none.
        region_mirror: Axes across which the mirror images of each mask weigh as much, such as "x" for left and right.
        region_weight: What each exam's mask weighs more in the loss at the first step, in latent voxels all together.
        region_weight_final: The same at the last step; the weight changes geometrically between them.
        ram_limit_gb: Latents up to this size are held in memory; larger sets are read item by item.
        samples_every: Steps between samples from validation reports, drawn as a mosaic; 0 draws none.
        sample_items: Validation reports sampled.
        sample_steps: Steps of the deterministic sampler that draws them.
        distill: Train a student of few sampling steps; the model is its teacher. See `distillation`.
        distill_steps: Sampling steps of the student.
        distill_substeps: Steps that the teacher takes for each of them; 0 divides the steps of the teacher's card.
        distill_guidance: Guidance scale of the teacher, which the student learns with the rest; 0 takes its card's.
    """

    loss: str = option("mse", choices=LOSSES)
    loss_weighting: str = option("none", choices=WEIGHTINGS)
    min_snr_gamma: float = option(5.0, above=0)
    timestep_density: str = option("uniform", choices=DENSITIES)
    class_weight: float = option(1e-2, minimum=0)
    focal_gamma: float = option(2.0, minimum=0)
    focal_alpha: float = option(0.75, minimum=0, maximum=1)
    condition_dropout: float = option(0.1, minimum=0, maximum=1)
    channel_weights: tuple[float, ...] = option((), above=0)
    latent_scale: str = option("channel", choices=LATENT_SCALES)
    regions: str = option("")
    region_mirror: str = option("")
    region_weight: float = option(0.0, minimum=0)
    region_weight_final: float = option(0.0, minimum=0)
    ram_limit_gb: float = option(4.0, minimum=0)
    samples_every: int = option(0, minimum=0)
    sample_items: int = option(4, minimum=1)
    sample_steps: int = option(20, minimum=1)
    distill: bool = option(False)
    distill_steps: int = option(4, minimum=1)
    distill_substeps: int = option(0, minimum=0)
    distill_guidance: float = option(0.0, minimum=0)


Options = TypeVar("Options", bound=LoopTraining)


def resolve_options(
    kind: type[Options], stage: str, card: Mapping[str, Any], explicit: Mapping[str, Any] | None = None,
    file: Path | str | None = None,
) -> Options:  # fmt: skip
    """Builds the options of a run.

    Args:
        kind: `AutoencoderTraining` or `DenoiserTraining`.
        stage: One of STAGES; the name of the table in the card's [training] and in a config file.
        card: The card's [training.<stage>] table.
        explicit: Values that overrule everything, by option name; None as a value means not given.
        file: A recipe: the name of a published one or a TOML file; see `recipes`.

    Returns:
        The options, checked.

    Raises:
        InputError: An option is unknown (the nearest known one is named), has the wrong type or is out of range.
    """
    layers = [check_options(kind, card, f"the card's [training.{stage}]")]
    if file is not None:
        layers += [check_options(kind, table, source) for source, table in read_options(str(file), stage)]
    given = {name: value for name, value in (explicit or {}).items() if value is not None}
    layers.append(check_options(kind, given, "the command line"))
    values: dict[str, Any] = {}
    for layer in layers:
        if layer.get("epochs") and "steps" in layer:
            raise InputError("Both steps and epochs are given.", "Give one of them.")
        # A length given in steps replaces one given in epochs; the other way round, epochs come first by themselves.
        values |= ({"epochs": 0.0} if "steps" in layer and "epochs" not in layer else {}) | layer
    options = kind(**values)
    if options.batch_size % options.accumulate:
        raise InputError(
            f"A batch of {options.batch_size} items cannot be split into {options.accumulate} equal micro-batches.",
            "Choose a batch_size that is a multiple of accumulate.",
        )
    return options


def write_config(path: Path, stage: str, options: LoopTraining) -> None:
    """Writes every option with its value; the file can be given back as `--config`."""
    import tomli_w

    write_text(path, tomli_w.dumps({stage: plain_options(options)}))


def settle_length(options: Options, items: int) -> Options:
    """The options with their length in steps: as many as `epochs` passes over the training items take."""
    if not options.epochs:
        return options
    return replace(options, steps=math.ceil(options.epochs * items / options.batch_size), epochs=0.0)


def plain_options(options: LoopTraining) -> dict[str, Any]:
    """The options as TOML and JSON know them: tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def differing_options(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """Names of options that differ and would change the result of a resumed run; see `FREE_OPTIONS`.

    Args:
        old: Of the run as it was saved.
        new: Of its resumption.
        defaults: What an option was that the old run did not know yet.
    """
    old = {**defaults, **old}
    free = set(FREE_OPTIONS)
    if not new.get("late_steps") and new.get("lr_schedule") == "constant" and old.get("lr_schedule") == "constant":
        free.add("steps")  # A run whose rate does not depend on its length can be made longer.
    return [name for name in sorted(set(old) | set(new)) if name not in free and old.get(name) != new.get(name)]

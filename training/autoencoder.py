"""Training of an autoencoder: each image channel on its own, absolute error at several scales plus KL divergence."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.spec import ImageSpec
from ..zoo.card import Card
from ..zoo.family import load_family
from .adversary import Adversary
from .config import AutoencoderTraining
from .data import ExamVolumes, divide_exams, exam_volumes
from .export import check_companions, describe_run, export_model, initial_network
from .loop import refuse_existing, run_folder, train
from .losses import gradient_loss, kl_divergence, psnr_db, pyramid_loss
from .processes import compute_once, is_first_process
from .resumption import flatten
from .splits import digest_words
from .task import Batch, Log, Progress, no_log

STAGE = "autoencoder"


class AutoencoderObjective(nn.Module):
    """The autoencoder, the discriminator where there is one, and their loss.

    Args:
        autoencoder: With `encode_moments` and `decode`.
        options: Of the training.
        spatial_dims: Axes of the image.
        family: Of the card.
    """

    def __init__(
        self, autoencoder: nn.Module, options: AutoencoderTraining, spatial_dims: int, family: str = "ccella"
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.options = options
        self._family = family
        self.adversary: Adversary | None = None
        if options.adversarial_weight > 0:
            self.adversary = Adversary(spatial_dims, options.discriminator_channels, options.discriminator_layers)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `x` [B, 1, ...] with the posterior drawn by `eps` [B, c, ...]."""
        options, x = self.options, batch["x"]
        mean, sigma = self.autoencoder.encode_moments(x)  # type: ignore[operator]
        mean, sigma = mean.float(), sigma.float()
        y = self.autoencoder.decode(mean + sigma * batch["eps"]).float()  # type: ignore[operator]
        l1, kl = functional.l1_loss(y, x), kl_divergence(mean, sigma)
        pyramid, gradient = pyramid_loss(y, x, options.pyramid_levels), gradient_loss(y, x)
        loss = l1 + options.pyramid_weight * pyramid + options.gradient_weight * gradient + options.kl_weight * kl
        scalars = {"l1": l1, "pyramid": pyramid, "gradient": gradient, "kl": kl}
        if self.adversary is not None and step >= options.adversarial_start:
            verdict, lesson = self.adversary.verdict(y), self.adversary.loss(x, y)
            loss = loss + options.adversarial_weight * verdict + lesson
            scalars |= {"verdict": verdict, "discriminator": lesson}
        return loss, scalars

    def checkpointing_units(self) -> Sequence[nn.Module]:
        """See `task.Task`."""
        units: Sequence[nn.Module] = load_family(self._family).recomputed_blocks(self.autoencoder)
        return units


class AutoencoderTask:
    """An autoencoder, its exams and its loss, for `loop.train`; see `task.Task`."""

    def __init__(self, card: Card, volumes: ExamVolumes, autoencoder: nn.Module, options: AutoencoderTraining) -> None:
        self.card = card
        self.options = options
        self.training, self.validation = volumes.training, volumes.validation
        self.objective: nn.Module = AutoencoderObjective(autoencoder, options, len(card.image.axes), card.family)
        self.ids: Sequence[str] = [self.training.name(index) for index in range(len(self.training))]
        self.identity: Mapping[str, str] = {
            "data": self.training.digest,
            "card": digest_words([repr(card.image), repr(card.latent.downsample), repr(card.part(STAGE).config)]),
        }
        network = {"image": vars(card.image), "latent": {"downsample": card.latent.downsample}}
        self.details: Mapping[str, Mapping[str, str]] = {
            "data": dict.fromkeys(self.training.ids, ""),
            "card": flatten({**network, "autoencoder": card.part(STAGE).config}),
        }
        self._patch = _patch_shape(options, card)
        self._flips = _flip_axes(options.flip_axes, card.image)

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        """One image channel, flipped and cut at random, with the posterior's noise."""
        x = self.training.image(index)
        for axis in self._flips:
            if bool(torch.rand((), generator=generator) < 0.5):
                x = x.flip(axis)
        for axis, size in enumerate(self._patch, 1):
            if size < x.shape[axis]:
                start = int(torch.randint(x.shape[axis] - size + 1, (), generator=generator))
                x = x.narrow(axis, start, size)
        latent = self.card.latent
        shape = (latent.channels_per_image_channel, *(size // latent.downsample for size in x.shape[1:]))
        return {"x": x, "eps": torch.randn(shape, generator=generator)}

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Items stacked on a batch axis."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def validate(self, device: torch.device) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB per image channel, of reconstructions from the posterior's mean."""
        if self.validation is None:
            return {}
        assert isinstance(self.objective, AutoencoderObjective)
        network: Any = self.objective.autoencoder
        count = min(self.options.validation_items, len(self.validation.ids)) * len(self.validation.channels)
        figures: dict[str, list[float]] = {channel: [] for channel in self.validation.channels}
        for index in range(count):
            x = self.validation.image(index)[None].to(device)
            mean, _ = network.encode_moments(x)
            y = network.decode(mean).float().clamp(0.0, 1.0)
            figures[self.validation.channel(index)].append(float(psnr_db(y, x)))
        return {f"psnr_db_{channel}": sum(values) / len(values) for channel, values in figures.items()}

    def score(self, figures: Mapping[str, float]) -> float:
        """The mean peak signal-to-noise ratio over the image channels."""
        return sum(figures.values()) / len(figures)

    def constants(self) -> dict[str, Any]:
        """Nothing is computed from the training set."""
        return {}

    def restore(self, constants: Mapping[str, Any]) -> None:
        """Nothing to take over."""

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the autoencoder into the model folder, with its validation figures."""
        prefix = "autoencoder."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        psnr = {name.removeprefix("psnr_db_"): round(value, 2) for name, value in progress.scalars.items()}
        data = {"exams": len(self.training.ids), "digest": self.training.digest}
        export_model(
            folder,
            self.card,
            STAGE,
            weights,
            self.options,
            updates={
                "measured": {"autoencoder_psnr_db": psnr} if psnr else {},
                "provenance": {STAGE: describe_run(self.card, STAGE, self.options, progress, data)},
            },
        )


def train_autoencoder(
    card: Card,
    exams: Sequence[Exam],
    out: Path,
    options: AutoencoderTraining,
    *,
    split: str | None = None,
    resume: bool = False,
    log: Log = no_log,
    allow: Collection[str] = (),
) -> Progress:
    """Trains the autoencoder of a card on exams.

    Args:
        card: The template: image, latent space and the autoencoder's configuration.
        exams: Of all splits; every image channel of an exam to train on is one sample.
        out: The model folder; the run's files lie in its `training/autoencoder`.
        options: Every option; see `config.resolve_options`.
        split: How patients are divided; see `imaging.splits.choose_splits`. They stand in the run's splits.csv.
        resume: Go on from the newest checkpoint.
        log: Takes lines for people.
        allow: What may differ from the run that is resumed; see `loop.train`.

    Returns:
        How the run ended; `scalars` holds the validation PSNR in dB per image channel.

    Raises:
        InputError, TrainingDivergedError, TrainingInterrupted: See `loop.train`.
    """
    log = log if is_first_process() else no_log
    refuse_existing(out, STAGE, resume)
    check_companions(card, STAGE, out, log)
    cache, share = out / "training" / "cache", options.validation_fraction
    folder = run_folder(out, STAGE)
    # The first process divides the patients and prepares the images; the others find them ready.
    splits = compute_once(options, lambda: divide_exams(folder, exams, split, log))
    compute_once(options, lambda: len(exam_volumes(exams, card.image, cache, splits=splits, log=log).training))
    volumes = exam_volumes(exams, card.image, cache, validation_fraction=share, splits=splits)
    counts = [0 if volumes.validation is None else len(volumes.validation.ids), len(volumes.training.ids)]
    log(f"Exams: {counts[1]} to train on, {counts[0]} to validate on, {len(exams) - sum(counts)} untouched.")
    network = initial_network(card, STAGE, options)
    task = AutoencoderTask(card, volumes, network, options)
    return train(task, options, out, stage=STAGE, resume=resume, log=log, allow=allow)


def _patch_shape(options: AutoencoderTraining, card: Card) -> tuple[int, ...]:
    shape, step = options.patch_shape or card.image.shape, card.latent.downsample
    fits = len(shape) == len(card.image.shape) and all(
        size <= whole and size % step == 0 for size, whole in zip(shape, card.image.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"Option patch_shape is {list(shape)} for images of {list(card.image.shape)}.",
            f"Give {len(card.image.shape)} sizes that are multiples of {step} and no larger than the image.",
        )
    return tuple(shape)


def _flip_axes(names: Sequence[str], spec: ImageSpec) -> list[int]:
    for name in names:
        if len(name) != 1 or name not in spec.axes:
            raise InputError(
                f"Option flip_axes names {name!r}; the image's axes are {spec.axes!r}.", "Name axes of the image."
            )
    return [spec.axes.index(name) + 1 for name in names]

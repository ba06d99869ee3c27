"""Training of a denoiser on encoded exams: what it predicts, the noise and the loss are data of the card."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.densities import draw_timesteps
from ..diffusion.losses import denoising_loss
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.forward import preconditioner
from ..zoo.loading import load_part, load_text_encoder, part_paths
from .config import DenoiserTraining
from .distillation import Teacher, check_student, load_teacher, student_card
from .export import check_companions, describe_run, export_model, initial_network
from .latents import (
    LatentItem,
    LatentSet,
    check_origin,
    keep_labelled,
    latent_items,
    latent_moments,
    latent_scale,
    pad_texts,
)
from .loop import refuse_existing, saved_constants, train
from .objective import DenoiserObjective
from .processes import compute_once, is_first_process, process_state
from .randomness import VALIDATION, item_generator
from .regions import RegionMaps
from .resumption import flatten
from .samples import SamplePlan, draw_samples
from .spectrum import image_response
from .splits import digest_words, divide_items
from .task import Batch, Log, Progress, no_log

STAGE = "denoiser"


class DenoiserTask:
    """A denoiser, its latents and its loss, for `loop.train`; see `task.Task`.

    Args:
        card: The template; its latent scale is not used.
        items: The encoded exams.
        denoiser: The network.
        null_text: Embedding of the empty report, [L, W].
        options: Of the training.
        constants: Statistics of the latents, as `constants()` gives them; computed from the training items when None,
            or the card's where there is a teacher.
        teacher: Of a student; the card is then its `student_card`.
    """

    def __init__(
        self, card: Card, items: LatentSet, denoiser: nn.Module, null_text: Tensor, options: DenoiserTraining,
        constants: Mapping[str, Any] | None = None, teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        self.options = options
        self.items = items
        self.unlabelled = 0
        self._family = load_family(card.family)
        self.training, self.validation = divide_items(items.patient_ids, options.validation_fraction, items.splits)
        if self._family.class_input(card) == "given":
            self.training, self.validation, self.unlabelled = keep_labelled(items, self.training, self.validation)
        self._teacher = teacher
        self._objective = DenoiserObjective(denoiser, card, options, teacher)
        self.objective: nn.Module = self._objective
        self.ids: Sequence[str] = [items.ids[index] for index in self.training]
        self.identity: Mapping[str, str] = {
            "data": items.digest,
            "card": digest_words([repr(card.schedule), repr(card.latent.channels), repr(card.part(STAGE).config)]),
        }
        network = {"schedule": vars(card.schedule), "latent": {"channels": card.latent.channels}}
        if teacher is not None:
            self.identity = {**self.identity, "teacher": teacher.identity()}
        self.details: Mapping[str, Mapping[str, str]] = {
            "data": items.details,
            "card": flatten({**network, "denoiser": card.part(STAGE).config}),
        }
        self.null_text = null_text
        self.card = card
        self._regions = None
        if options.regions:
            chosen = [items.ids[index] for index in self.training]
            self._regions = RegionMaps(
                Path(options.regions), chosen, card.image, card.latent.downsample, options.region_mirror
            )
        own = self.constants() if teacher is not None else None
        self.restore(constants or own or self._measure_latents())

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        """One exam: a fresh posterior sample, noise, a timestep, and perhaps no report."""
        item = self.items[self.training[index]]
        # The order of these draws is part of what makes a resumed run exact; change it and old runs cannot be repeated.
        posterior = torch.randn(item.mean.shape, generator=generator)
        eps = torch.randn(item.mean.shape, generator=generator)
        t = self._draw_timestep(generator)
        dropped = bool(torch.rand((), generator=generator) < self.options.condition_dropout)
        drawn = self._item(item, posterior, eps, t, dropped)
        return drawn if self._regions is None else drawn | {"region": self._regions[item.id]}

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Items stacked on a batch axis; reports of different lengths padded, with their mask."""
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "text"}
        batch["text"], batch["mask"] = pad_texts([item["text"] for item in items])
        return batch

    def validate(self, device: torch.device) -> dict[str, float]:
        """Loss on fixed noise at timesteps spread evenly, per image channel too, and the class head's AUC."""
        if not self.validation:
            return {}
        assert isinstance(self.objective, DenoiserObjective)
        chosen = self.validation[: self.options.validation_items]
        names = self.card.image.channel_names
        groups, probabilities, labels = [], [], []
        for start in range(0, len(chosen), self.options.batch_size):
            part = range(start, min(start + self.options.batch_size, len(chosen)))
            middles = [self._spread_timestep(slot, len(chosen)) for slot in part]
            batch = self.collate([self._fixed(chosen[slot], slot, t) for slot, t in zip(part, middles, strict=True)])
            moved = {name: value.to(device) for name, value in batch.items()}
            prediction, target, logits = self.objective.predict(moved)
            groups.append(denoising_loss(prediction, target, kind=self.options.loss, groups=len(names)).group.cpu())
            probabilities += logits.softmax(dim=1)[:, 1].tolist()
            labels += torch.where(batch["class_counts"], batch["class_label"], -1).tolist()
        means = torch.cat(groups).mean(dim=0)
        figures = {"loss": float(means.mean())} | {f"loss_{name}": float(means[i]) for i, name in enumerate(names)}
        area = class_auc(labels, probabilities)
        return figures if area is None else figures | {"class_auc": area}

    def constants(self) -> dict[str, Any]:
        """The latent scale and moments: computed once, never again."""
        latent = self.card.latent
        found = {"latent_scale": latent.scale, "latent_mean": latent.mean, "latent_std": latent.std}
        return {name: list(value) for name, value in found.items() if value is not None}

    def restore(self, constants: Mapping[str, Any]) -> None:
        """Takes over the latent scale and moments."""
        self.scale: tuple[float, ...] = tuple(constants["latent_scale"])
        mean, std = (tuple(constants.get(name, ())) or None for name in ("latent_mean", "latent_std"))
        self.card = self.card.with_generation(latent=replace(self.card.latent, scale=self.scale, mean=mean, std=std))
        self._objective.preconditioner = preconditioner(self.card)

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the denoiser, the latent scale and the validation figures into the model folder."""
        weights = {name.removeprefix("denoiser."): value for name, value in state.items()}
        data = {"exams": len(self.training), "digest": self.items.digest}
        measured = {name: round(value, 5) for name, value in progress.scalars.items()}
        export_model(
            folder,
            self.card,
            STAGE,
            weights,
            self.options,
            updates={
                "latent": {name.removeprefix("latent_"): value for name, value in self.constants().items()},
                "measured": {self._figures: measured} if measured else {},
                "provenance": {STAGE: describe_run(self.card, STAGE, self.options, progress, data)},
            },
        )

    def illustrate(self, path: Path, state: Mapping[str, Tensor], device: torch.device) -> bool:
        """Draws samples from validation reports; False where there is no validation item."""
        chosen = self.validation[: self.options.sample_items]
        if not chosen:
            return False
        items = [(self.items[index], self.items.prompt(index)) for index in chosen]
        plan = SamplePlan(items, self.null_text, self.options.sample_steps, self.options.seed)
        weights = {name.removeprefix("denoiser."): value for name, value in state.items()}
        autoencoder = load_part(self.card, "autoencoder", device=device)
        draw_samples(path, self.card, plan, weights=weights, autoencoder=autoencoder, device=device)
        return True

    @property
    def _figures(self) -> str:
        """Name of the validation figures in the card: a student's are distances from its teacher."""
        return "denoiser_validation" if self._teacher is None else "student_validation"

    def _draw_timestep(self, generator: torch.Generator) -> Tensor:
        if self._teacher is None:
            return draw_timesteps(1, self.card.schedule.train_timesteps, self.options.timestep_density, generator)[0]
        table = torch.tensor(self._teacher.trajectory.student_timesteps)
        return table[torch.randint(len(table), (), generator=generator)]

    def _spread_timestep(self, slot: int, slots: int) -> int:
        """The timestep of a validation item, so that all items are spread evenly over those that are trained."""
        timesteps: Sequence[int] = range(self.card.schedule.train_timesteps)
        if self._teacher is not None:
            timesteps = self._teacher.trajectory.student_timesteps
        return timesteps[(2 * slot + 1) * len(timesteps) // (2 * slots)]

    def _measure_latents(self) -> dict[str, Any]:
        """Constants of the training items: the scale and, for a preconditioned network, the channels' moments."""
        each, response = self.card.latent.channels_per_image_channel, None
        moments = latent_moments(self.items, self.training)
        if self.options.latent_scale == "image":
            device = process_state(self.options).device
            autoencoder = load_part(self.card, "autoencoder", device=device)
            response = image_response(self.card, autoencoder, self.items, self.training, moments, device)
        scale = latent_scale(moments, each, response)
        if self.card.schedule.preconditioning == "none":
            return {"latent_scale": scale}
        factors = torch.tensor(scale, dtype=torch.float64).repeat_interleave(len(moments.mean) // len(scale))
        std = moments.variance.sqrt() * factors
        return {"latent_scale": scale, "latent_mean": (moments.mean * factors).tolist(), "latent_std": std.tolist()}

    def _fixed(self, index: int, slot: int, t: int) -> Batch:
        """A validation item with its noise from the run's seed and its place alone."""
        item, generator = self.items[index], item_generator(self.options.seed, VALIDATION, 0, slot)
        posterior = torch.randn(item.mean.shape, generator=generator)
        eps = torch.randn(item.mean.shape, generator=generator)
        return self._item(item, posterior, eps, torch.tensor(t), False)

    def _item(self, item: LatentItem, posterior: Tensor, eps: Tensor, t: Tensor, dropped: bool) -> Batch:
        null = dropped or item.text_is_null
        z = item.mean + item.sigma * posterior
        return {
            "z": self._family.scale_latent(self.card, z[None])[0],
            "eps": eps,
            "t": t,
            "text": self.null_text if null else item.text,
            "spacing_mm": torch.tensor(item.spacing_mm),
            "class_label": torch.tensor(item.class_label),
            "class_counts": torch.tensor(not null and item.class_label >= 0),
        }


def train_denoiser(
    card: Card, latents: Path, out: Path, options: DenoiserTraining, *, resume: bool = False, log: Log = no_log,
    allow: Collection[str] = (),
) -> Progress:  # fmt: skip
    """Trains the denoiser of a card on encoded exams.

    Args:
        card: The template: schedule, latent space, the denoiser's configuration; its other parts come along.
        latents: Output folder of `ccella encode`, made with this card's autoencoder and text encoder.
        out: The model folder; the run's files lie in its `training/denoiser`.
        options: Every option; see `config.resolve_options`.
        resume: Go on from the newest checkpoint.
        log: Takes lines for people.
        allow: What may differ from the run that is resumed; see `loop.train`.

    Returns:
        How the run ended; `scalars` holds the validation loss and the class head's AUC.

    Raises:
        InputError: The latents were made with another autoencoder or do not fit; otherwise see `loop.train`.
        TrainingDivergedError, TrainingInterrupted: See `loop.train`.
    """
    log = log if is_first_process() else no_log
    refuse_existing(out, STAGE, resume)
    check_student(card, out, options)
    check_companions(card, STAGE, out, log)
    if options.samples_every:
        part_paths(card, "autoencoder")
    items = latent_items(latents, card.latent_shape, options.ram_limit_gb)
    check_origin(card, items)
    null_text = items.null_text()
    if null_text is None:
        log("Embedding the empty report with the card's text encoder.")
        null_text = compute_once(options, lambda: load_text_encoder(card).encode([""])[0].float().cpu())
    network, teacher = initial_network(card, STAGE, options), None
    if options.distill:
        teacher = load_teacher(card, null_text, options)
        card = student_card(teacher)
        log(f"The student's timesteps: {', '.join(map(str, card.sampler.timesteps or ()))}.")
    task = DenoiserTask(card, items, network, null_text, options, saved_constants(out, STAGE), teacher)
    if task.unlabelled:
        log(f"{task.unlabelled} exams without a class are left out: this denoiser is given the class.")
    held = len(items) - len(task.training) - len(task.validation) - task.unlabelled
    log(f"Exams: {len(task.training)} to train on, {len(task.validation)} to validate on, {held} untouched.")
    if options.class_weight and len({items.label(index) for index in task.training} - {None}) < 2:
        log("The training exams do not have both classes: the class head cannot learn. class_weight = 0 leaves it out.")
    log("Latent scale: " + ", ".join(f"{value:.4f}" for value in task.scale))
    return train(task, options, out, stage=STAGE, resume=resume, log=log, allow=allow)


def class_auc(labels: Sequence[int], probabilities: Sequence[float]) -> float | None:
    """Area under the ROC curve over the items with a label of 0 or 1; None unless both occur."""
    from sklearn.metrics import roc_auc_score

    kept = [(label, value) for label, value in zip(labels, probabilities, strict=True) if label >= 0]
    if len({label for label, _ in kept}) < 2:
        return None
    return float(roc_auc_score([label for label, _ in kept], [value for _, value in kept]))

"""Training of a classifier: focal loss on augmented exams, the best validation's weights kept."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.losses import focal_loss
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..zoo.card import Card, parse_card
from ..zoo.errors import CardError
from ..zoo.family import load_family
from .augmentation import Augmentation
from .classifier_data import LabelledImages, check_apart, check_labelled, labelled_images
from .config import EXPORTED, LoopTraining, option
from .export import describe_run, export_model, initial_network
from .loop import refuse_existing, train
from .processes import compute_once, is_first_process
from .resumption import flatten
from .splits import digest_words
from .task import Batch, Log, Progress, no_log

STAGE = "classifier"
FINETUNING = "classifier_finetuning"


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(LoopTraining):
    """Options of classifier training.

    Attributes:
        validation_items: Most exams a validation looks at.
        export_weights: "best" are those with the highest validation average precision.
        focal_gamma: Focusing exponent of the focal loss.
        focal_alpha: Weight of the positive class in it; 0.5 weighs both alike.
        augment_probability: Of each of flip, rotation, translation and zoom.
        max_rotation_deg: Largest rotation about z, either way.
        max_translation: Largest shift along x, y, z in voxels, either way.
        zoom: Smallest and largest magnification.
    """

    ema_decay: float = option(0.0, minimum=0, maximum=1)
    validation_items: int = option(100_000, minimum=1)
    export_weights: str = option("best", choices=EXPORTED)
    focal_gamma: float = option(2.0, minimum=0)
    focal_alpha: float = option(0.5, minimum=0, maximum=1)
    augment_probability: float = option(0.5, minimum=0, maximum=1)
    max_rotation_deg: float = option(15.0, minimum=0)
    max_translation: tuple[float, ...] = option((25.0, 25.0, 2.0), minimum=0)
    zoom: tuple[float, ...] = option((0.9, 1.1), above=0)


class ClassifierObjective(nn.Module):
    """The classifier and its loss."""

    def __init__(self, classifier: nn.Module, options: ClassifierTraining) -> None:
        super().__init__()
        self.classifier = classifier
        self.options = options

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Focal loss of images `x` [B, C, ...] against `label` [B]."""
        logits = self.classifier(batch["x"]).float()
        targets = nn.functional.one_hot(batch["label"], logits.shape[1])
        loss = focal_loss(logits, targets, gamma=self.options.focal_gamma, alpha=self.options.focal_alpha)
        return loss, {"accuracy": (logits.argmax(1) == batch["label"]).float().mean()}


class ClassifierTask:
    """A classifier, its exams and its loss, for `loop.train`; see `task.Task`."""

    def __init__(
        self, card: Card, training: LabelledImages, validation: LabelledImages, classifier: nn.Module,
        options: ClassifierTraining,
    ) -> None:  # fmt: skip
        self.card, self.options = card, options
        self.training, self.validation = training, validation
        self.objective: nn.Module = ClassifierObjective(classifier, options)
        self.ids: Sequence[str] = training.ids
        self._count = min(len(validation), options.validation_items)
        if len(set(validation.labels[: self._count])) < 2:
            raise InputError(
                f"The first {self._count} validation exams are of one class.", "Give a larger validation_items."
            )
        network = {"image": vars(card.image), "classifier": dict(card.part(STAGE).config)}
        self.identity: Mapping[str, str] = {
            "data": training.digest,
            "validation": validation.digest,
            "card": digest_words([repr(network)]),
        }
        self.details: Mapping[str, Mapping[str, str]] = {
            "data": training.describe(),
            "validation": validation.describe(),
            "card": flatten(network),
        }
        self._augmentation = Augmentation(
            options.augment_probability, options.max_rotation_deg, options.max_translation, options.zoom
        )

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        """One exam, varied at random, and its class."""
        x = self._augmentation.apply(self.training.image(index), generator)
        return {"x": x, "label": torch.tensor(self.training.labels[index])}

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Items stacked on a batch axis."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def validate(self, device: torch.device) -> dict[str, float]:
        """Average precision, area under the ROC curve and focal loss on the validation exams, as they are."""
        from ..metrics.classification import classification_figures

        assert isinstance(self.objective, ClassifierObjective)
        count, size = self._count, self.options.batch_size
        logits = []
        for first in range(0, count, size):
            x = torch.stack([self.validation.image(index) for index in range(first, min(first + size, count))])
            logits.append(self.objective.classifier(x.to(device)).float().cpu())
        outputs = torch.cat(logits)
        labels = torch.tensor(self.validation.labels[:count])
        targets = nn.functional.one_hot(labels, outputs.shape[1])
        loss = focal_loss(outputs, targets, gamma=self.options.focal_gamma, alpha=self.options.focal_alpha)
        found = classification_figures(labels.numpy(), outputs.softmax(1)[:, 1].double().numpy())
        named = {name: float(found[name] or 0.0) for name in ("average_precision", "auc")}
        return {**named, "loss": float(loss)}

    def score(self, figures: Mapping[str, float]) -> float:
        """The validation average precision."""
        return figures["average_precision"]

    def constants(self) -> dict[str, Any]:
        """Nothing is computed from the training set."""
        return {}

    def restore(self, constants: Mapping[str, Any]) -> None:
        """Nothing to take over."""

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the classifier into the model folder, with its validation figures."""
        weights = {name.removeprefix("classifier."): value for name, value in state.items()}
        measured = {name: round(value, 5) for name, value in progress.scalars.items()}
        data = {
            "exams": len(self.training), "positive": sum(self.training.labels), "digest": self.training.digest,
            "validation_exams": len(self.validation), "validation_digest": self.validation.digest,
        }  # fmt: skip
        updates = {
            "measured": {"validation": measured} if measured else {},
            "provenance": {STAGE: describe_run(self.card, STAGE, self.options, progress, data)},
        }
        export_model(folder, self.card, STAGE, weights, self.options, updates=updates)


def classifier_defaults(card: Card, *, finetune: bool) -> dict[str, Any]:
    """What the card says of the training, from random weights or from another classifier's."""
    defaults = dict(card.training.get(STAGE, {}))
    return defaults | {"initial": "card", **card.training.get(FINETUNING, {})} if finetune else defaults


def select_channels(card: Card, names: Sequence[str]) -> Card:
    """The card of a classifier that looks at some of the channels only, without weights.

    Raises:
        CardError: A name is none of the card's channels, or the model is no classifier.
    """
    unknown = [name for name in names if name not in card.image.channel_names]
    if unknown or not names:
        raise CardError(
            f"Model {card.id} has no channel {unknown[0] if unknown else ''!r}.",
            f"Its channels are: {', '.join(card.image.channel_names)}.",
        )
    if tuple(names) == card.image.channel_names:
        return card
    part = {**card.document["parts"][card.part(STAGE).name], "files": []}
    part["config"] = {**part["config"], "in_channels": len(names)}
    rows = {row["name"]: row for row in card.document["image"]["channels"]}
    image = {**card.document["image"], "channels": [rows[name] for name in names]}
    document = {**card.document, "image": image, "parts": {**card.document["parts"], STAGE: part}}
    return parse_card(document, card.directory / "card.toml")


def train_classifier(
    card: Card, training: Sequence[Exam], validation: Sequence[Exam], out: Path, options: ClassifierTraining, *,
    cache: Path | None = None, resume: bool = False, log: Log = no_log, allow: Collection[str] = (),
) -> Progress:  # fmt: skip
    """Trains the classifier of a card.

    Args:
        card: The template: image and the classifier's configuration; with `options.initial` "card" its weights too.
        training: Labelled exams to learn from, real or synthetic.
        validation: Labelled exams of other patients, by which the weights to keep are chosen.
        out: The model folder; the run's files lie in its `training/classifier`.
        options: Every option; see `config.resolve_options`.
        cache: Folder for prepared arrays; None for one inside `out`.
        resume: Go on from the newest checkpoint.
        log: Takes lines for people.
        allow: What may differ from the run that is resumed; see `loop.train`.

    Returns:
        How the run ended; `scalars` holds the last validation's figures.

    Raises:
        InputError, TrainingDivergedError, TrainingInterrupted: See `loop.train`.
        InputError: The exams cannot be used; see `classifier_data.check_labelled`.
        CardError: The model is no classifier, or its network does not fit its image.
    """
    log = log if is_first_process() else no_log
    refuse_existing(out, STAGE, resume)
    part = card.part(STAGE)
    load_family(card.family).check_grid(part, card.image)
    for exams, name in ((training, "training"), (validation, "validation")):
        check_labelled(exams, name)
    check_apart(training, validation, "validation")
    folder = cache or out / "training" / "cache"

    def prepare() -> tuple[LabelledImages, LabelledImages]:
        return (
            labelled_images(training, card.image, folder, name="training", log=log),
            labelled_images(validation, card.image, folder, name="validation", log=log),
        )

    # The first process prepares the images; the others find them ready.
    compute_once(options, lambda: len(prepare()[0]))
    samples = prepare()
    network = initial_network(card, STAGE, options)
    task = ClassifierTask(card, *samples, network, options)
    return train(task, options, out, stage=STAGE, resume=resume, log=log, allow=allow)

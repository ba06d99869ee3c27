"""Latents of an encode run as training items of a denoiser: posterior moments, embedded report, class, spacing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..imaging.errors import InputError
from ..imaging.splits import SPLITS_FILE, read_splits
from ..zoo.card import Card
from ..zoo.loading import part_digests
from ..zoo.record import Record
from ..zoo.runs import read_run
from .splits import digest_words

UNKNOWN_CLASS = -1


@dataclass(frozen=True, eq=False)
class LatentItem:
    """One encoded exam.

    Attributes:
        id: Of the exam.
        patient_id: Of the patient.
        mean: Posterior mean, float32 [C, ...], in the autoencoder's units.
        sigma: Posterior standard deviation, same shape.
        text: Embedded report, float32 [L, W].
        text_is_null: The exam has no report; `text` embeds the empty one.
        class_label: 0, 1 or UNKNOWN_CLASS.
        spacing_mm: Spacing of the image along its axes.
    """

    id: str
    patient_id: str
    mean: Tensor
    sigma: Tensor
    text: Tensor
    text_is_null: bool
    class_label: int
    spacing_mm: tuple[float, ...]


class LatentSet:
    """The encoded exams of a run folder, in the order of their ids, each read when asked for.

    Args:
        folder: An encode run's folder, with manifest.jsonl.
        shape: Shape that every latent must have.
        ram_limit_gb: Sets up to this size are read once and held in memory.

    Attributes:
        splits: Split by patient, as the run's splits.csv tells; None where there is none.

    Raises:
        InputError: The folder has no manifest or no encoded exam, or a record lacks what training needs.
    """

    def __init__(self, folder: Path, shape: Sequence[int], ram_limit_gb: float = 4.0) -> None:
        records = [record for record in read_run(folder) if record.kind == "latent"]
        self._folder, self._shape = folder, tuple(shape)
        # A folder that was resumed may list an item again; the last line counts.
        self._records = sorted({record.id: record for record in records}.values(), key=lambda record: record.id)
        if not self._records:
            raise InputError(f"{folder} lists no latents.", "Give the output folder of `ccella encode`.")
        for record in self._records:
            _check(record)
        self.ids: tuple[str, ...] = tuple(record.id for record in self._records)
        self.patient_ids: tuple[str, ...] = tuple(str(record.data["patient_id"]) for record in self._records)
        path = folder / SPLITS_FILE
        self.splits = read_splits(path) if path.is_file() else None
        self.size_bytes = sum(record.path.stat().st_size for record in self._records)
        self._texts: dict[str, Tensor] = {}
        self._held: dict[int, LatentItem] | None = {} if self.size_bytes <= ram_limit_gb * 1e9 else None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> LatentItem:
        if self._held is not None and index in self._held:
            return self._held[index]
        item = self._read(self._records[index])
        if self._held is not None:
            self._held[index] = item
        return item

    @property
    def digest(self) -> str:
        """Of the items, their reports, classes, files' sizes and splits."""
        return digest_words([word for record in self._records for word in (record.id, *self._words(record))])

    @property
    def details(self) -> dict[str, str]:
        """A digest of each item's report, class, file and split, by its id."""
        return {record.id: digest_words(self._words(record))[:12] for record in self._records}

    def _words(self, record: Record) -> list[str]:
        data = record.data
        words = [str(data["text_path"]), str(data.get("class")), str(record.path.stat().st_size)]
        # Runs that knew no splits keep their digests.
        return words if self.splits is None else [*words, self.splits.get(str(data["patient_id"]), "none")]

    def prompt(self, index: int) -> str:
        """The report of an item; empty where it has none."""
        return str(self._records[index].data.get("prompt") or "")

    def label(self, index: int) -> int | None:
        """The class of an item; None where it is unknown."""
        return self._records[index].data.get("class")

    def model_files(self) -> dict[str, str]:
        """Digest by file of the models that made the latents, as the first record tells them."""
        model = self._records[0].data.get("model")
        files = model.get("files") if isinstance(model, Mapping) else None
        return {str(name): str(digest) for name, digest in files.items()} if isinstance(files, Mapping) else {}

    def null_text(self) -> Tensor | None:
        """The embedding of the empty report, where an exam without a report brought it along."""
        for index, record in enumerate(self._records):
            if not record.data.get("prompt"):
                return self[index].text
        return None

    def _read(self, record: Record) -> LatentItem:
        tensors = _load(record.path)
        for name in ("mean", "sigma"):
            if name not in tensors or tuple(tensors[name].shape) != self._shape:
                found = tuple(tensors[name].shape) if name in tensors else "missing"
                raise InputError(
                    f"{record.path}: {name} is {found}; the model's latents have the shape {self._shape}.",
                    "Encode the exams with the model that is to be trained.",
                )
        data = record.data
        label = data.get("class")
        return LatentItem(
            id=record.id,
            patient_id=str(data["patient_id"]),
            mean=tensors["mean"].float(),
            sigma=tensors["sigma"].float(),
            text=self._text(str(data["text_path"])),
            text_is_null=not data.get("prompt"),
            class_label=UNKNOWN_CLASS if label is None else int(label),
            spacing_mm=tuple(float(value) for value in data["spacing_mm"]),
        )

    def _text(self, name: str) -> Tensor:
        if name in self._texts:
            return self._texts[name]
        tensors = _load(self._folder / name)
        if "embedding" not in tensors or tensors["embedding"].ndim != 2:
            raise InputError(f"{self._folder / name} holds no embedded report.", "Encode the exams again.")
        text = tensors["embedding"].float()
        if self._held is not None:
            self._texts[name] = text
        return text


def latent_items(folder: Path, shape: Sequence[int], ram_limit_gb: float = 4.0) -> LatentSet:
    """The encoded exams of a run folder; see `LatentSet`."""
    return LatentSet(folder, shape, ram_limit_gb)


@dataclass(frozen=True, eq=False)
class LatentMoments:
    """Mean and variance of each latent channel over a training set, unscaled; float64 [C]."""

    mean: Tensor
    variance: Tensor


def latent_moments(items: LatentSet, indices: Sequence[int]) -> LatentMoments:
    """Mean and variance of each channel of samples of the training latents.

    A sample is mean + sigma eps, so its variance over the set is that of the means plus the mean of sigma squared.

    Args:
        items: The latents.
        indices: Of the training items.
    """
    totals, elements = torch.zeros(3, 0, dtype=torch.float64), 0
    for index in indices:
        mean, sigma = items[index].mean.double().flatten(1), items[index].sigma.double().flatten(1)
        sums = torch.stack([mean.sum(1), mean.square().sum(1), sigma.square().sum(1)])
        totals = sums if not elements else totals + sums
        elements += mean.shape[1]
    first, second, noise = totals / elements
    return LatentMoments(first, second - first**2 + noise)


def latent_scale(
    moments: LatentMoments, channels_per_image_channel: int, response: Tensor | None = None
) -> tuple[float, ...]:
    """Factors that bring samples of the training latents to unit standard deviation per image channel.

    Args:
        moments: Of the training latents.
        channels_per_image_channel: Latent channels that belong to one image channel.
        response: Relative size that each latent channel is to have, [C]; None leaves them as they are.

    Returns:
        1 / standard deviation per image channel, over the whole training set; with a response, one factor per latent
        channel.

    Raises:
        InputError: The latents of an image channel do not vary.
    """
    weight = torch.ones_like(moments.mean) if response is None else response.double()
    mean = (moments.mean * weight).view(-1, channels_per_image_channel)
    within = (moments.variance * weight**2).view(-1, channels_per_image_channel)
    variance = within.mean(1) + mean.var(1, correction=0)
    if not bool(torch.isfinite(variance).all() and (variance > 0).all()):
        raise InputError(
            "The training latents of an image channel do not vary.", "Train the autoencoder before encoding."
        )
    factors = variance**-0.5
    if response is not None:
        factors = (factors[:, None] * weight.view_as(mean)).flatten()
    return tuple(factors.tolist())


def pad_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embedded reports [L_i, W] padded with zeros to [B, L, W], and a mask [B, L] that is True at real tokens."""
    padded = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None]


def _check(record: Record) -> None:
    wanted: Mapping[str, Any] = {"patient_id": str, "text_path": str, "spacing_mm": list}
    for key, kind in wanted.items():
        if not isinstance(record.data.get(key), kind):
            raise InputError(
                f"Latent {record.id!r} has {key} = {record.data.get(key)!r}.",
                "Train on the output of `ccella encode`; sampled latents have no posterior.",
            )
    if record.data.get("class") not in (None, 0, 1):
        raise InputError(f"Latent {record.id!r} has class = {record.data['class']!r}.", "Classes are 0 and 1, or none.")
    if not record.path.is_file():
        raise InputError(f"Latent {record.path} does not exist.", "Run `ccella encode` again with --resume.")


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Run `ccella encode` again.") from error


def keep_labelled(
    items: LatentSet, training: Sequence[int], validation: Sequence[int]
) -> tuple[list[int], list[int], int]:
    """The training and validation items whose class is known, and how many are left out.

    Raises:
        InputError: No training item has a class.
    """
    kept = [[index for index in part if items.label(index) is not None] for part in (training, validation)]
    if not kept[0]:
        raise InputError(
            f"None of the {len(training)} exams to train on has a class, and the denoiser is to be given it.",
            "Add the classes and encode the exams again, or choose another recipe.",
        )
    return kept[0], kept[1], len(training) + len(validation) - len(kept[0]) - len(kept[1])


def count_latents(folder: Path) -> int:
    """How many exams an encode run holds, by its manifest.

    Raises:
        InputError: The folder is none of an encode run.
    """
    if str(folder) == "-":
        raise InputError(
            "Latents come as -, and training reads them many times over.", "Give the output folder of `ccella encode`."
        )
    return sum(record.kind == "latent" for record in read_run(folder))


def check_origin(card: Card, items: LatentSet) -> None:
    """Refuses latents of another autoencoder or text encoder than the card's: InputError names the file."""
    made, own = items.model_files(), part_digests(card)
    for name, digest in own.items():
        if not name.startswith("denoiser/") and name in made and made[name] != digest:
            raise InputError(
                f"The latents were made with another {name} (SHA-256 {made[name][:12]}...) than model {card.id} has.",
                "Encode the exams again with this model.",
            )

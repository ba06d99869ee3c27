"""Image channels of exams as training samples of an autoencoder, prepared once into one memory-mapped file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..imaging.atomic import atomic_path
from ..imaging.errors import InputError
from ..imaging.exams import Exam, PreparedExam, load_exam
from ..imaging.spec import ImageSpec
from ..imaging.splits import SPLITS_FILE, choose_splits, describe_splits, patient_classes, write_splits
from .checkpoints import latest_checkpoint
from .splits import digest_words, divide_items
from .task import Log, no_log

Loader = Callable[[Exam, ImageSpec], PreparedExam]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Every image channel of every exam, as one sample each.

    Attributes:
        array: float16, all exams x channels x the image's axes, values in 0..1; usually memory-mapped.
        rows: Rows of `array` that belong to this set.
        ids: Of the exams, one per row.
        channels: Names, in order.
        digest: Of the exams, their files and the grid.
    """

    array: np.ndarray
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    channels: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.ids) * len(self.channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis of an image."""
        return tuple(self.array.shape[2:])

    def name(self, index: int) -> str:
        """Exam and channel of a sample."""
        exam, channel = divmod(index, len(self.channels))
        return f"{self.ids[exam]}_{self.channels[channel]}"

    def channel(self, index: int) -> str:
        """Channel of a sample."""
        return self.channels[index % len(self.channels)]

    def image(self, index: int) -> Tensor:
        """A sample, float32 [1, *shape] in 0..1."""
        exam, channel = divmod(index, len(self.channels))
        return torch.from_numpy(self.array[self.rows[exam], channel].astype(np.float32))[None]


@dataclass(frozen=True, eq=False)
class ExamVolumes:
    """The two sides of the split by patient; `validation` is None where the fraction leaves none."""

    training: ImageSet
    validation: ImageSet | None


def exam_volumes(
    exams: Sequence[Exam], spec: ImageSpec, cache: Path, *, validation_fraction: float = 0.0,
    splits: Mapping[str, str] | None = None, load: Loader = load_exam, log: Log = no_log,
) -> ExamVolumes:  # fmt: skip
    """Prepares exams for autoencoder training.

    The prepared arrays are kept in `cache`, so that neither an epoch nor a resumed run reads the exams again.

    Args:
        exams: What to train on.
        spec: The model's image.
        cache: Folder for the prepared arrays.
        validation_fraction: Share of patients kept for validation; see `splits.divide_items`.
        splits: Split by patient; exams of `test` are not even read.
        load: Puts an exam on the model's grid.
        log: Takes lines for people.

    Returns:
        Training and validation samples; no patient is in both.

    Raises:
        InputError: There is no exam, or one cannot be used.
    """
    if not exams:
        raise InputError("There are no exams to train on.", "Give a folder or manifest of exams.")
    ordered = sorted(exams, key=lambda exam: exam.id)
    if splits is not None:
        ordered = [exam for exam in ordered if splits.get(exam.patient_id) != "test"]
    training, validation = divide_items([exam.patient_id for exam in ordered], validation_fraction, splits)
    digest = _digest(ordered, spec, splits)
    path = cache / f"images-{digest[:16]}.npy"
    if not path.is_file():
        _prepare(path, ordered, spec, load, log)
    array = np.load(path, mmap_mode="r", allow_pickle=False)

    def subset(indices: Sequence[int]) -> ImageSet:
        ids = tuple(ordered[index].id for index in indices)
        return ImageSet(array, tuple(indices), ids, spec.channel_names, digest)

    return ExamVolumes(subset(training), subset(validation) if validation else None)


def divide_exams(folder: Path, exams: Sequence[Exam], choice: str | None, log: Log = no_log) -> dict[str, str] | None:
    """Splits of a run's patients, written once into its folder as splits.csv; see `choose_splits`.

    Args:
        folder: Of the run; one with a checkpoint and without the file was begun without splits.
        exams: All exams.
        choice: What was asked for.
        log: Takes lines for people.

    Raises:
        InputError: See `choose_splits`.
    """
    path = folder / SPLITS_FILE
    begun = not path.is_file() and latest_checkpoint(folder / "checkpoints") is not None
    splits = choose_splits(path, exams, choice, begun_without=begun)
    if splits is not None:
        write_splits(path, splits, patient_classes(exams))
        log(f"{describe_splits(splits)} ({path}).")
    return splits


def _prepare(path: Path, exams: Sequence[Exam], spec: ImageSpec, load: Loader, log: Log) -> None:
    shape = (len(exams), *spec.array_shape)
    log(f"Preparing {len(exams)} exams into {path}.")
    unfit: list[InputError] = []
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for number, exam in enumerate(exams):
            try:
                array[number] = load(exam, spec).array
            except InputError as error:
                unfit.append(InputError(f"Exam {exam.id}: {error}", error.remedy))
            if (number + 1) * 10 // len(exams) > number * 10 // len(exams):
                log(f"prepared {number + 1} of {len(exams)} exams")
        array.flush()
        refuse_unfit(unfit, len(exams))


def refuse_unfit(unfit: Sequence[InputError], total: int) -> None:
    """Names all exams that cannot be used at once: reading a thousand again to learn of the next one takes hours.

    Args:
        unfit: Why, one for each such exam.
        total: How many exams there are.

    Raises:
        InputError: There is one.
    """
    if len(unfit) == 1:
        raise unfit[0]
    if unfit:
        named = " ".join(str(error) for error in unfit[:10])
        raise InputError(f"{len(unfit)} of {total} exams cannot be used. {named}", "Mend them or leave them out.")


def _digest(exams: Sequence[Exam], spec: ImageSpec, splits: Mapping[str, str] | None) -> str:
    words = [repr(spec)]
    for exam in exams:
        words += [exam.id, exam.patient_id]
        # Runs that knew no splits keep their digests.
        words += [] if splits is None else [splits.get(exam.patient_id, "none")]
        for channel in spec.channel_names:
            path = exam.files[channel]
            # A DICOM series is a folder; its size says nothing.
            size = path.stat().st_size if path.is_file() else -1
            words += [path.name, str(size)]
    return digest_words(words)

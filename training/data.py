"""Image channels of exams as training samples of an autoencoder, prepared once into one memory-mapped file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..imaging.atomic import atomic_path
from ..imaging.errors import InputError
from ..imaging.exams import Exam, PreparedExam, load_exam
from ..imaging.spec import ImageSpec
from .splits import digest_words, split_patients
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
    load: Loader = load_exam, log: Log = no_log,
) -> ExamVolumes:  # fmt: skip
    """Prepares exams for autoencoder training.

    The prepared arrays are kept in `cache`, so that neither an epoch nor a resumed run reads the exams again.

    Args:
        exams: What to train on.
        spec: The model's image.
        cache: Folder for the prepared arrays.
        validation_fraction: Share of patients kept for validation.
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
    digest = _digest(ordered, spec)
    path = cache / f"images-{digest[:16]}.npy"
    if not path.is_file():
        _prepare(path, ordered, spec, load, log)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    training, validation = split_patients([exam.patient_id for exam in ordered], validation_fraction)

    def subset(indices: Sequence[int]) -> ImageSet:
        ids = tuple(ordered[index].id for index in indices)
        return ImageSet(array, tuple(indices), ids, spec.channel_names, digest)

    return ExamVolumes(subset(training), subset(validation) if validation else None)


def _prepare(path: Path, exams: Sequence[Exam], spec: ImageSpec, load: Loader, log: Log) -> None:
    shape = (len(exams), *spec.array_shape)
    log(f"Preparing {len(exams)} exams into {path}.")
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for number, exam in enumerate(exams):
            array[number] = load(exam, spec).array
            if (number + 1) * 10 // len(exams) > number * 10 // len(exams):
                log(f"prepared {number + 1} of {len(exams)} exams")
        array.flush()


def _digest(exams: Sequence[Exam], spec: ImageSpec) -> str:
    words = [repr(spec)]
    for exam in exams:
        words += [exam.id, exam.patient_id]
        for channel in spec.channel_names:
            path = exam.files[channel]
            # A DICOM series is a folder; its size says nothing.
            size = path.stat().st_size if path.is_file() else -1
            words += [path.name, str(size)]
    return digest_words(words)

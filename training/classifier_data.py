"""Labelled exams as training samples of a classifier, standardised once into one memory-mapped file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..imaging.atomic import atomic_path
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.spec import ImageSpec
from ..imaging.standardisation import standardise_exam
from .splits import digest_words
from .task import Log, no_log

_NAMED = 5


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Standardised exams with their class.

    Attributes:
        array: float16, exams x channels x the image's axes; memory-mapped.
        ids: Of the exams.
        patient_ids: Of the exams.
        labels: 0 or 1.
        digest: Of the exams, their files, labels and the grid.
    """

    array: np.ndarray
    ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    labels: tuple[int, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Tensor:
        """A sample, float32 [C, *shape]."""
        return torch.from_numpy(self.array[index].astype(np.float32))


def labelled_images(
    exams: Sequence[Exam], spec: ImageSpec, cache: Path, *, name: str, log: Log = no_log
) -> LabelledImages:
    """Standardises labelled exams.

    Args:
        exams: With a class each, of both classes, ids distinct.
        spec: The classifier's image.
        cache: Folder for the arrays, so that neither an epoch nor another run reads the exams again.
        name: What the exams are, for messages.
        log: Takes lines for people.

    Returns:
        The samples, sorted by id.

    Raises:
        InputError: An id comes twice, an exam has no class, one class is missing, or an exam cannot be used.
    """
    check_labelled(exams, name)
    ordered = sorted(exams, key=lambda exam: exam.id)
    path = cache / f"classifier-{_digest_images(ordered, spec)[:16]}.npy"
    if not path.is_file():
        _standardise(path, ordered, spec, name, log)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    labels = tuple(int(exam.label or 0) for exam in ordered)
    digest = digest_words([_digest_images(ordered, spec), *map(str, labels)])
    ids, patients = tuple(exam.id for exam in ordered), tuple(exam.patient_id for exam in ordered)
    return LabelledImages(array, ids, patients, labels, digest)


def check_labelled(exams: Sequence[Exam], name: str) -> None:
    """Refuses exams from which no classifier can learn or be judged; `name` says what they are.

    Raises:
        InputError: There is no exam, an id comes twice, an exam has no class, or all are of one class.
    """
    if not exams:
        raise InputError(f"The {name} exams are none.", "Give a folder or manifest of exams.")
    seen: set[str] = set()
    for exam in exams:
        if exam.id in seen:
            raise InputError(f"The {name} exams hold the id {exam.id!r} twice.", "Give every exam an id of its own.")
        seen.add(exam.id)
    without = [exam.id for exam in exams if exam.label is None]
    if without:
        raise InputError(
            f"{len(without)} of the {len(exams)} {name} exams have no class: {abridge(without)}.",
            "Give each a class of 1 or 0: a column `class` of the manifest, or a row of marksheet.csv with their ids.",
        )
    classes = {exam.label for exam in exams}
    if len(classes) < 2:
        raise InputError(f"All {len(exams)} {name} exams are of class {classes.pop()}.", "Give exams of both classes.")


def check_apart(training: Iterable[Exam], others: Iterable[Exam], name: str) -> None:
    """Raises InputError where a patient of the training exams is among the `name` exams too."""
    shared = sorted({exam.patient_id for exam in training} & {exam.patient_id for exam in others})
    if shared:
        raise InputError(
            f"{len(shared)} patients are among the training and the {name} exams: {abridge(shared)}.",
            "Keep every patient on one side.",
        )


def abridge(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _standardise(path: Path, exams: Sequence[Exam], spec: ImageSpec, name: str, log: Log) -> None:
    log(f"Preparing {len(exams)} {name} exams into {path}.")
    with atomic_path(path) as temporary:
        shape = (len(exams), *spec.array_shape)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for number, exam in enumerate(exams):
            array[number] = standardise_exam(exam, spec)
        array.flush()


def _digest_images(exams: Sequence[Exam], spec: ImageSpec) -> str:
    words = [repr(spec)]
    for exam in exams:
        words.append(exam.id)
        for channel in spec.channel_names:
            path = exam.files[channel]
            # A DICOM series is a folder; its size says nothing.
            size = path.stat().st_size if path.is_file() else -1
            words += [str(path.resolve()), str(size)]
    return digest_words(words)

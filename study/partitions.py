"""Who trains, validates and tests, and the ever smaller parts of institution 2's training set."""

import hashlib
from collections.abc import Mapping, Sequence

from ..imaging.errors import InputError
from ..imaging.exams import Exam

SPLITS = ("train", "validation", "test")


def split_exams(exams: Sequence[Exam], shares: Sequence[float], seed: int, name: str) -> dict[str, list[Exam]]:
    """Divides exams by patient into training, validation and test, in equal proportion of the classes.

    Args:
        exams: Labelled.
        shares: Of patients, for each of SPLITS.
        seed: Of the order in which patients are taken.
        name: What the exams are, for messages.

    Returns:
        Exams by split, in the order of `exams`; a patient is in one split only.

    Raises:
        InputError: A class has too few patients for three splits.
    """
    places: dict[str, str] = {}
    for label, patients in _by_class(exams).items():
        ordered = _shuffled(patients, seed, "split")
        test = max(1, round(shares[2] * len(ordered)))
        validation = max(1, round(shares[1] * len(ordered)))
        if len(ordered) - test - validation < 1:
            raise InputError(
                f"{name} has {len(ordered)} patients of class {label}, too few for training, validation and test.",
                "Give more exams.",
            )
        for number, patient in enumerate(ordered):
            places[patient] = SPLITS[2] if number < test else SPLITS[1] if number < test + validation else SPLITS[0]
    return {split: [exam for exam in exams if places[exam.patient_id] == split] for split in SPLITS}


def partition_exams(exams: Sequence[Exam], fractions: Sequence[float], seed: int) -> dict[float, list[Exam]]:
    """The parts of a training set: each holds that share of the patients of either class, and all smaller parts.

    Args:
        exams: Labelled, of both classes.
        fractions: Shares in 0..1.
        seed: Of the order in which patients are taken.

    Returns:
        Exams by share, in the order of `exams`; at least one patient of each class in each.
    """
    ranks: dict[str, float] = {}
    for patients in _by_class(exams).values():
        ordered = _shuffled(patients, seed, "partition")
        ranks |= {patient: number / len(ordered) for number, patient in enumerate(ordered)}
    # The patient of rank i/n is in the part f when i < f n, so the first one always is.
    return {fraction: [exam for exam in exams if ranks[exam.patient_id] < fraction] for fraction in fractions}


def _by_class(exams: Sequence[Exam]) -> Mapping[int, list[str]]:
    """Patients by class; one with a positive exam is positive."""
    labels: dict[str, int] = {}
    for exam in exams:
        labels[exam.patient_id] = max(labels.get(exam.patient_id, 0), int(exam.label or 0))
    return {label: sorted(patient for patient in labels if labels[patient] == label) for label in (0, 1)}


def _shuffled(patients: Sequence[str], seed: int, purpose: str) -> list[str]:
    """Patients in an order that depends on the seed and on each patient's name alone."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{purpose}:{seed}:{patient}".encode()).digest())


def fraction_name(fraction: float) -> str:
    """A share as a percentage, such as `12.5`; also the name of its folder."""
    return f"{100 * fraction:g}"

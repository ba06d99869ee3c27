"""Who is trained on and who validates: what splits.csv says, else a hash of the patient; never chance or file order."""

import hashlib
from collections.abc import Mapping, Sequence

from ..imaging.errors import InputError


def divide_items(
    patient_ids: Sequence[str], fraction: float, splits: Mapping[str, str] | None = None
) -> tuple[list[int], list[int]]:
    """Divides items into training and validation by their patient.

    Args:
        patient_ids: One per item.
        fraction: Share of patients for validation where there are no splits. With splits it decides one thing: 0 trains
            on `train` and `val` together, as the published models were, and validates on nothing.
        splits: Split by patient, as `ccella encode` writes them; `test` is never touched.

    Returns:
        Indices of the training items and of the validation items, each ascending.

    Raises:
        InputError: A patient has no split, or nothing is left to train on.
    """
    if splits is None:
        return split_patients(patient_ids, fraction)
    lost = sorted(set(patient_ids) - set(splits))
    if lost:
        raise InputError(
            f"splits.csv names no split for {len(lost)} patients, the first is {lost[0]!r}.",
            "Run `ccella encode` again with --resume on all exams, or add them to splits.csv.",
        )
    training = [index for index, patient in enumerate(patient_ids) if splits[patient] == "train"]
    validation = [index for index, patient in enumerate(patient_ids) if splits[patient] == "val"]
    if fraction == 0:
        training, validation = sorted(training + validation), []
    if not training:
        raise InputError(f"None of the {len(patient_ids)} items is in the split train.", "Correct splits.csv.")
    return training, validation


def split_patients(patient_ids: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Divides items into training and validation by their patient.

    A patient's place does not depend on the others, so a set that grows keeps its split. When a fraction above 0 leaves
    no patient for validation, the one with the smallest hash is taken.

    Args:
        patient_ids: One per item.
        fraction: Share of patients for validation, 0 to below 1.

    Returns:
        Indices of the training items and of the validation items, each ascending.

    Raises:
        InputError: Nothing is left to train on.
    """
    places = {patient: _place(patient) for patient in set(patient_ids)}
    held_out = {patient for patient, place in places.items() if place < fraction}
    if fraction > 0 and not held_out and len(places) > 1:
        held_out = {min(places, key=lambda patient: places[patient])}
    training = [index for index, patient in enumerate(patient_ids) if patient not in held_out]
    validation = [index for index, patient in enumerate(patient_ids) if patient in held_out]
    if not training:
        raise InputError(
            f"{len(patient_ids)} items of {len(places)} patients leave none to train on "
            f"at validation_fraction = {fraction}.",
            "Give more patients, or a smaller validation_fraction.",
        )
    return training, validation


def digest_words(words: Sequence[str]) -> str:
    """SHA-256 of a list of words, in hexadecimal."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _place(patient: str) -> float:
    """A number in 0..1 that depends on the patient alone."""
    return int.from_bytes(hashlib.sha256(f"split:{patient}".encode()).digest()[:8]) / 2**64

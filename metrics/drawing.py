"""Random subsets of exams in which the exams of a patient stay together."""

from collections.abc import Sequence

import numpy as np


def shuffle_by_patient(rng: np.random.Generator, patients: Sequence[str]) -> np.ndarray:
    """Indices of all exams, [n], patients in random order; where each has one exam, a plain permutation."""
    _, first, codes = np.unique(np.asarray(patients, str), return_index=True, return_inverse=True)
    # Numbered as they appear, so that a name's spelling does not matter to the drawing.
    appearance = np.argsort(np.argsort(first))
    place = np.argsort(rng.permutation(len(first)))
    return np.argsort(place[appearance[codes]], kind="stable")


def half_size(patients: Sequence[str]) -> int:
    """Exams in each of two halves that share no patient, whichever patients are drawn: n // 2 where none repeats."""
    most = int(np.unique(np.asarray(patients, str), return_counts=True)[1].max())
    return (len(patients) - (most - 1)) // 2


def draw_halves(rng: np.random.Generator, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves of `half_size` exams that share no patient."""
    size, names = half_size(patients), np.asarray(patients, str)
    order = shuffle_by_patient(rng, patients)
    first, rest = order[:size], order[size:]
    # The patient at the border may have exams on both sides of it.
    return first, rest[names[rest] != names[first[-1]]][:size]

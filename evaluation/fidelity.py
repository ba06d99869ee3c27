"""How far synthetic features are from real ones, each figure beside the floor that real data themselves reach."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.drawing import draw_halves, half_size, shuffle_by_patient
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import chosen_distances, kernel_distance, subset_distances
from ..metrics.neighbours import distances, overlap

HALVINGS = 100
# The Fréchet distance of this many rows and features takes a good second, so that fewer halvings have to do.
MANY = 512
HALVINGS_OF_MANY = 20
SUBSETS = 100
NEIGHBOURS = 5
LISTED = 10
OVERLAP = ("precision", "recall", "density", "coverage")

Patients = tuple[Sequence[str], Sequence[str]]


def compare_features(
    real: np.ndarray, synthetic: np.ndarray, *, seed: int, neighbours: bool, patients: Patients | None = None
) -> dict[str, Any]:
    """Distances between two equally large samples of features.

    Every figure that depends on the number of samples is also computed on random halves: a synthetic half against a
    real half, and the other real half against it, which is the floor at the same number. No patient is in both halves.

    Args:
        real: Features, [exams, rows per exam, d].
        synthetic: Features of as many exams.
        seed: Seed of halves and subsets.
        neighbours: Also compute precision, recall, density and coverage.
        patients: Patient of each real and of each synthetic exam; None takes each exam for a patient.

    Returns:
        JSON-able: n (rows), exams, d, and per figure `value`, and of halves `half`, `interval`, `floor` and
        `floor_interval` (means and 95 % ranges over `halvings`), with `half_n` rows.

    Raises:
        ValueError: The samples are not equally large.
        InputError: The real exams are of too few patients to be halved.
    """
    if real.shape != synthetic.shape:
        raise ValueError(f"Features of shapes {real.shape} and {synthetic.shape} are of different numbers.")
    exams, per_exam, d = real.shape
    names = patients or ([str(i) for i in range(exams)],) * 2
    size = half_size(names[0])
    if size < 2:
        raise InputError(
            f"The {exams} real exams are of {len(set(names[0]))} patients and cannot be halved by patient.",
            "Add exams of other patients.",
        )
    # The same neighbours in halves as in the whole, so few exams have fewer.
    k = min(NEIGHBOURS, size * per_exam - 1) if neighbours else 0
    halvings = HALVINGS if min(size * per_exam, d) <= MANY else HALVINGS_OF_MANY
    full = _figures(_rows(real), _rows(synthetic), k)
    full["kid"] = kernel_distance(_rows(real), _rows(synthetic))
    half, floor = _halves(real, synthetic, names, seed, halvings, k)
    subsets = subset_distances(
        _rows(real), _rows(synthetic), subsets=SUBSETS, seed=seed, group_size=per_exam, patients=names
    )
    result: dict[str, Any] = {
        "n": exams * per_exam, "exams": exams, "patients": len(set(names[0])), "d": d, "half_n": size * per_exam,
        "halvings": halvings,
    }  # fmt: skip
    for name, value in full.items():
        result[name] = {
            "value": value,
            "half": float(half[name].mean()),
            "interval": _range(half[name]),
            "floor": float(floor[name].mean()),
            "floor_interval": _range(floor[name]),
        }
    # The kernel distance does not depend on the number, so its subsets speak of the value itself.
    result["kid"] |= {"interval": _range(subsets), "sd": float(subsets.std()), "subsets": SUBSETS}
    if neighbours:
        result["neighbours"] = k
    return result


def nearest_in_features(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_ids: Sequence[str],
    synthetic_ids: Sequence[str],
    patients: Sequence[str],
) -> dict[str, Any]:
    """How near synthetic exams come to real ones, beside how near real ones of different patients come.

    Args:
        real: Features, [n, d].
        synthetic: Features, [m, d].
        real_ids: Id of each row.
        synthetic_ids: Id of each row.
        patients: Patient of each real row.

    Returns:
        JSON-able: median distance of a `synthetic` item to the nearest real one, and of a `real` item to the nearest
        of another patient (None where there is no other); the nearest `pairs`, the closest first.
    """
    between = distances(synthetic, real)
    nearest, least = between.argmin(1), between.min(1)
    within = distances(real, real)
    names = np.asarray(patients, str)
    within[names[:, None] == names[None]] = np.inf
    others = within.min(1)
    others = others[np.isfinite(others)]
    return {
        "synthetic": float(np.median(least)),
        "real": float(np.median(others)) if len(others) else None,
        "pairs": [
            {"id": synthetic_ids[i], "real_id": real_ids[nearest[i]], "distance": float(least[i])}
            for i in np.argsort(least, kind="stable")[:LISTED]
        ],
    }


def _figures(real: np.ndarray, synthetic: np.ndarray, k: int) -> dict[str, float]:
    """What has to be computed anew for every pair of samples; kernel distances of many are computed at once."""
    return {"fid": frechet_distance(real, synthetic)} | (asdict(overlap(real, synthetic, k)) if k else {})


def _halves(
    real: np.ndarray, synthetic: np.ndarray, names: Patients, seed: int, halvings: int, k: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Figures of each halving: a real half against a synthetic one, and against the other real half."""
    rng = np.random.default_rng(seed)
    rows: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    # Columns of 0 and 1 for the kernel distances: first real half, second real half, synthetic half.
    chosen = np.zeros((3, len(real), halvings))
    for number in range(halvings):
        first, second = draw_halves(rng, names[0])
        other = shuffle_by_patient(rng, names[1])[: len(first)]
        for place, exams in enumerate((first, second, other)):
            chosen[place, exams, number] = 1.0
        rows[0].append(_figures(_rows(real[first]), _rows(synthetic[other]), k))
        rows[1].append(_figures(_rows(real[first]), _rows(real[second]), k))
    x, y = _rows(real), _rows(synthetic)
    first_half, second_half, synthetic_half = (np.repeat(each, real.shape[1], 0) for each in chosen)
    kernels = chosen_distances(x, y, first_half, synthetic_half), chosen_distances(x, x, first_half, second_half)
    half, floor = (
        {name: np.array([row[name] for row in each]) for name in each[0]} | {"kid": kernel}
        for each, kernel in zip(rows, kernels, strict=True)
    )
    return half, floor


def _rows(features: np.ndarray) -> np.ndarray:
    return np.asarray(features, np.float64).reshape(-1, features.shape[-1])


def _range(values: np.ndarray) -> list[float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]

"""How far synthetic features are from real ones, each figure beside the floor that real data themselves reach."""

from dataclasses import asdict
from typing import Any

import numpy as np

from ..metrics.frechet import frechet_distance
from ..metrics.kernel import kernel_distance, subset_distances
from ..metrics.neighbours import distances, overlap

HALVINGS = 20
SUBSETS = 100
NEIGHBOURS = 5
OVERLAP = ("precision", "recall", "density", "coverage")


def compare_features(real: np.ndarray, synthetic: np.ndarray, *, seed: int, neighbours: bool) -> dict[str, Any]:
    """Distances between two equally large samples of features.

    Every figure that depends on the number of samples is also computed on random halves: a synthetic half against a
    real half, and the other real half against it, which is the floor at the same number.

    Args:
        real: Features, [exams, rows per exam, d].
        synthetic: Features of as many exams.
        seed: Seed of halves and subsets.
        neighbours: Also compute precision, recall, density and coverage.

    Returns:
        JSON-able: n (rows), exams, d, and per figure `value`, and of halves `half`, `interval`, `floor` and
        `floor_interval` (means and 95 % ranges over 20 halvings), with `half_n` rows.

    Raises:
        ValueError: The samples are not equally large.
    """
    if real.shape != synthetic.shape:
        raise ValueError(f"Features of shapes {real.shape} and {synthetic.shape} are of different numbers.")
    exams, per_exam, d = real.shape
    # The same neighbours in halves as in the whole, so few exams have fewer.
    k = min(NEIGHBOURS, exams // 2 * per_exam - 1) if neighbours else 0
    full = _figures(_rows(real), _rows(synthetic), k)
    half, floor = _halves(real, synthetic, seed, k)
    subsets = subset_distances(_rows(real), _rows(synthetic), subsets=SUBSETS, seed=seed, group_size=per_exam)
    result: dict[str, Any] = {"n": exams * per_exam, "exams": exams, "d": d, "half_n": exams // 2 * per_exam}
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
        result["nearest_real"] = nearest_in_features(_rows(real), _rows(synthetic))
    return result


def nearest_in_features(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Median distance from a synthetic item to the nearest real one, and from a real one to the nearest other."""
    between = distances(synthetic, real).min(1)
    within = distances(real, real)
    np.fill_diagonal(within, np.inf)
    return {"synthetic": float(np.median(between)), "real": float(np.median(within.min(1)))}


def _figures(real: np.ndarray, synthetic: np.ndarray, k: int) -> dict[str, float]:
    figures = {"fid": frechet_distance(real, synthetic), "kid": kernel_distance(real, synthetic)}
    return figures | (asdict(overlap(real, synthetic, k)) if k else {})


def _halves(
    real: np.ndarray, synthetic: np.ndarray, seed: int, k: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    exams = len(real)
    size = exams // 2
    half: list[dict[str, float]] = []
    floor: list[dict[str, float]] = []
    for _ in range(HALVINGS):
        order, other = rng.permutation(exams), rng.permutation(exams)[:size]
        first, second = _rows(real[order[:size]]), _rows(real[order[size : 2 * size]])
        half.append(_figures(first, _rows(synthetic[other]), k))
        floor.append(_figures(first, second, k))
    first_half, first_floor = (
        {name: np.array([row[name] for row in rows]) for name in rows[0]} for rows in (half, floor)
    )
    return first_half, first_floor


def _rows(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def _range(values: np.ndarray) -> list[float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]

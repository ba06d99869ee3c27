"""What nearest neighbours in feature space tell: fidelity, coverage, and how near a sample comes to a training item."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """How two samples of features overlap.

    Attributes:
        precision: Share of synthetic items inside the real manifold.
        recall: Share of real items inside the synthetic manifold.
        density: Mean number of real neighbourhoods that hold a synthetic item, over k; may exceed 1.
        coverage: Share of real neighbourhoods that hold a synthetic item.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances between rows, [n, d] and [m, d] to [n, m], in double precision."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2.0 * x @ y.T
    return np.sqrt(np.clip(squared, 0.0, None))


def overlap(real: np.ndarray, synthetic: np.ndarray, k: int = 5) -> Overlap:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The neighbourhood of an item is the ball to its k-th nearest neighbour in its own sample, itself not counted.

    Args:
        real: Features, [n, d].
        synthetic: Features, [m, d].
        k: Neighbours.

    Returns:
        The four figures.

    Raises:
        ValueError: A sample has no more than k rows, or the widths differ.
    """
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"Samples of shapes {real.shape} and {synthetic.shape} cannot be compared.")
    if min(len(real), len(synthetic)) <= k:
        raise ValueError(f"Samples of {len(real)} and {len(synthetic)} rows have no {k} neighbours each.")
    radius_real = np.sort(distances(real, real), axis=1)[:, k]
    radius_synthetic = np.sort(distances(synthetic, synthetic), axis=1)[:, k]
    between = distances(real, synthetic)
    in_real = between <= radius_real[:, None]
    in_synthetic = between <= radius_synthetic[None]
    return Overlap(
        precision=float(in_real.any(0).mean()),
        recall=float(in_synthetic.any(1).mean()),
        density=float(in_real.sum(0).mean() / k),
        coverage=float(in_real.any(1).mean()),
    )

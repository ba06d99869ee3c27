"""Kernel distance (KID): the unbiased squared maximum mean discrepancy with a cubic polynomial kernel."""

import numpy as np


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with k(x, y) = (x.y / d + 1)^3.

    Unlike the Fréchet distance it does not depend on the number of samples, and it may be slightly negative. Source:
    Binkowski et al. 2018, "Demystifying MMD GANs"; the estimator is that of Gretton et al. 2012, lemma 6.

    Args:
        x: Features, [n, d].
        y: Features, [m, d].

    Returns:
        The estimate.

    Raises:
        ValueError: A sample has fewer than two rows, or the widths differ.
    """
    return _distance(*_kernels(x, y))


def subset_distances(x: np.ndarray, y: np.ndarray, *, subsets: int = 100, seed: int = 0) -> np.ndarray:
    """Kernel distances of random subsets of half the smaller sample, drawn without replacement from both.

    Their spread tells how far the value depends on the sample. Subsets of the whole sample would all be equal.

    Args:
        x: Features, [n, d].
        y: Features, [m, d].
        subsets: How many.
        seed: Seed of the drawing.

    Returns:
        One distance per subset.

    Raises:
        ValueError: As `kernel_distance`, or a sample has fewer than four rows.
    """
    size = min(len(x), len(y)) // 2
    if size < 2:
        raise ValueError(f"Samples of {len(x)} and {len(y)} rows have no subsets of two.")
    within_x, within_y, between = _kernels(x, y)
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(subsets):
        i, j = rng.choice(len(x), size, replace=False), rng.choice(len(y), size, replace=False)
        distances.append(_distance(within_x[np.ix_(i, i)], within_y[np.ix_(j, j)], between[np.ix_(i, j)]))
    return np.array(distances)


def _kernels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel matrices within x, within y and between them."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"Samples of shapes {x.shape} and {y.shape} have no kernel distance; [n, d] is due, n >= 2.")
    d = x.shape[1]
    within_x, within_y, between = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return within_x, within_y, between


def _distance(within_x: np.ndarray, within_y: np.ndarray, between: np.ndarray) -> float:
    n, m = between.shape
    first = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    second = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(first + second - 2.0 * between.mean())

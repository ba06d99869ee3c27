"""Kernel distance (KID): the unbiased squared maximum mean discrepancy with a cubic polynomial kernel."""

from collections.abc import Sequence

import numpy as np

from .drawing import shuffle_by_patient

# Rows of a kernel matrix that are held at a time.
ROWS = 1024


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
    x, y = _check(x, y)
    return float(chosen_distances(x, y, np.ones((len(x), 1)), np.ones((len(y), 1)))[0])


def subset_distances(
    x: np.ndarray,
    y: np.ndarray,
    *,
    subsets: int = 100,
    seed: int = 0,
    group_size: int = 1,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Kernel distances of random subsets of half the smaller sample, drawn without replacement from both.

    Their spread tells how far the value depends on the sample. Subsets of the whole sample would all be equal.

    Args:
        x: Features, [n, d].
        y: Features, [m, d].
        subsets: How many.
        seed: Seed of the drawing.
        group_size: Consecutive rows that belong together, such as the slices of an exam, and are drawn together.
        patients: Patient of each group of x and of y, drawn with all their groups as long as there is room; None
            takes each group for a patient.

    Returns:
        One distance per subset.

    Raises:
        ValueError: As `kernel_distance`; a sample has fewer than four groups, or its rows are no whole groups.
    """
    x, y = _check(x, y)
    if len(x) % group_size or len(y) % group_size:
        raise ValueError(f"{len(x)} and {len(y)} rows are no whole groups of {group_size}.")
    groups_x, groups_y = len(x) // group_size, len(y) // group_size
    size = min(groups_x, groups_y) // 2
    if size < 2:
        raise ValueError(f"Samples of {groups_x} and {groups_y} items have no subsets of two.")
    names_x, names_y = ([str(i) for i in range(n)] for n in (groups_x, groups_y)) if patients is None else patients
    rng = np.random.default_rng(seed)
    chosen_x, chosen_y = np.zeros((groups_x, subsets)), np.zeros((groups_y, subsets))
    for subset in range(subsets):
        chosen_x[shuffle_by_patient(rng, names_x)[:size], subset] = 1.0
        chosen_y[shuffle_by_patient(rng, names_y)[:size], subset] = 1.0
    return chosen_distances(x, y, np.repeat(chosen_x, group_size, 0), np.repeat(chosen_y, group_size, 0))


def chosen_distances(x: np.ndarray, y: np.ndarray, chosen_x: np.ndarray, chosen_y: np.ndarray) -> np.ndarray:
    """Kernel distances of many pairs of subsets, for which the kernel is computed once.

    Args:
        x: Features, [n, d].
        y: Features, [m, d].
        chosen_x: Rows of x in each subset, 0 or 1, [n, subsets]; two or more of each.
        chosen_y: Rows of y, [m, subsets].

    Returns:
        One distance per subset.
    """
    n, m = chosen_x.sum(0), chosen_y.sum(0)
    within_x = _sums(x, x, chosen_x, chosen_x) - chosen_x.T @ _diagonal(x)
    within_y = _sums(y, y, chosen_y, chosen_y) - chosen_y.T @ _diagonal(y)
    between = _sums(x, y, chosen_x, chosen_y)
    distances: np.ndarray = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * between / (n * m)
    return distances


def _check(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"Samples of shapes {x.shape} and {y.shape} have no kernel distance; [n, d] is due, n >= 2.")
    return x, y


def _sums(x: np.ndarray, y: np.ndarray, chosen_x: np.ndarray, chosen_y: np.ndarray) -> np.ndarray:
    """Sum of the kernel over the chosen rows of x and of y, one per subset; the kernel matrix is never whole."""
    total = np.zeros(chosen_x.shape[1])
    for start in range(0, len(x), ROWS):
        kernel = (x[start : start + ROWS] @ y.T / x.shape[1] + 1.0) ** 3
        total += (chosen_x[start : start + ROWS] * (kernel @ chosen_y)).sum(0)
    return total


def _diagonal(x: np.ndarray) -> np.ndarray:
    diagonal: np.ndarray = ((x * x).sum(1) / x.shape[1] + 1.0) ** 3
    return diagonal

"""Fréchet distance between two samples of features, in double precision.

The distance is biased: it falls as the samples grow, so a value means something only beside its floor (real against
real at the same number of samples) and never beside a value of another number.
"""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two samples.

    |mu_x - mu_y|^2 + Tr(S_x) + Tr(S_y) - 2 Tr((S_x S_y)^(1/2)), with unbiased covariances. Source: Heusel et al. 2017,
    "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", equation 6.

    With fewer samples than features the last trace is the sum of the singular values of X Y^T, where X and Y are the
    centred samples over sqrt(n - 1): no matrix of d x d is formed. Otherwise it is the sum of the square roots of the
    eigenvalues of S_x^(1/2) S_y S_x^(1/2), which is symmetric, so rounding cannot make it complex.

    Args:
        x: Features, [n, d].
        y: Features, [m, d].

    Returns:
        The distance in squared units of the features; not below 0.

    Raises:
        ValueError: A sample has fewer than two rows, the widths differ, or a value is not finite.
    """
    x, y = _check(x, y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred_x, centred_y = x - mean_x, y - mean_y
    root_n, root_m = np.sqrt(len(x) - 1), np.sqrt(len(y) - 1)
    traces = (centred_x**2).sum() / root_n**2 + (centred_y**2).sum() / root_m**2
    if max(len(x), len(y)) <= x.shape[1]:
        product = (centred_x / root_n) @ (centred_y / root_m).T
        cross = float(np.linalg.svd(product, compute_uv=False).sum())
    else:
        cross = _trace_of_root(centred_x.T @ centred_x / root_n**2, centred_y.T @ centred_y / root_m**2)
    return max(0.0, float(((mean_x - mean_y) ** 2).sum() + traces - 2.0 * cross))


def _trace_of_root(first: Matrix, second: Matrix) -> float:
    """Tr((A B)^(1/2)) of two positive semidefinite matrices."""
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return float(np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0.0, None)).sum())


def _check(x: np.ndarray, y: np.ndarray) -> tuple[Matrix, Matrix]:
    """Both samples in double precision; ValueError where they cannot be compared."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"Samples of shapes {x.shape} and {y.shape} have no Fréchet distance; [n, d] is due, n >= 2.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("A feature is NaN or infinite.")
    return x, y

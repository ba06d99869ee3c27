"""Features without weights: where an image is bright, and where it has edges and texture of which size.

An image is halved twice. At each of the three sizes it is smoothed, and these maps are formed: the smooth image itself,
the magnitude of what smoothing removed (texture), and the magnitude of its slope along each axis (edges). Each map is
averaged in 3 cells along every axis; of texture and edges a logarithm is taken, so that a blur that halves them counts
wherever they are, and weighted so that it counts about as much as a shift of the anatomy. So a feature is a place, a
size and a kind of structure. The idea is that of pyramid statistics for textures
(Portilla and Simoncelli 2000); the choice of maps is this project's own, and distances of these features compare with
one another only.
"""

from collections.abc import Callable

import numpy as np

LEVELS = 3
CELLS = 3
# Of the logarithm beside a brightness of 0..1; and what counts as no structure at all.
LOG_WEIGHT = 0.2
LEAST_STRUCTURE = 1e-3


def pyramid_features(images: np.ndarray) -> np.ndarray:
    """Features of images of two or three axes.

    Args:
        images: Values in 0..1, [n, row, column] or [n, x, y, z], at least 12 samples along each axis.

    Returns:
        float64, [n, 405] for volumes (3 sizes, 5 maps, 27 cells) and [n, 108] for slices (3 sizes, 4 maps, 9 cells).

    Raises:
        ValueError: Another number of axes, or an axis too short for three cells at the smallest size.
    """
    least = CELLS * 2 ** (LEVELS - 1)
    if images.ndim not in (3, 4) or min(images.shape[1:]) < least:
        raise ValueError(
            f"Images of shape {images.shape} have no pyramid; two or three axes of {least} samples are due."
        )
    axes = range(1, images.ndim)
    x = np.asarray(images, np.float32)
    features = []
    for level in range(LEVELS):
        if level > 0:
            x = _each_axis(x, _halve, axes)
        smooth = _each_axis(x, _smooth, axes)
        features.append(_cells(smooth))
        features.append(_level(np.abs(x - smooth)))
        features.extend(_level(np.abs(np.gradient(smooth, axis=axis))) for axis in axes)
    return np.concatenate(features, axis=1)


def _level(x: np.ndarray) -> np.ndarray:
    return LOG_WEIGHT * np.log(_cells(x) + LEAST_STRUCTURE)


def _each_axis(x: np.ndarray, apply: Callable[[np.ndarray, int], np.ndarray], axes: range) -> np.ndarray:
    for axis in axes:
        x = apply(x, axis)
    return x


def _smooth(x: np.ndarray, axis: int) -> np.ndarray:
    """Weights 1/4, 1/2, 1/4; the border repeats."""
    x = np.moveaxis(x, axis, 0)
    out = 0.5 * x
    out[1:] += 0.25 * x[:-1]
    out[:-1] += 0.25 * x[1:]
    out[0] += 0.25 * x[0]
    out[-1] += 0.25 * x[-1]
    return np.moveaxis(out, 0, axis)


def _halve(x: np.ndarray, axis: int) -> np.ndarray:
    """Means of two; an odd one at the end is dropped."""
    x = np.moveaxis(x, axis, 0)
    even = x[: len(x) // 2 * 2]
    return np.moveaxis((even[0::2] + even[1::2]) * np.float32(0.5), 0, axis)


def _cells(x: np.ndarray) -> np.ndarray:
    """Means over CELLS nearly equal parts of each axis, [n, cells], in double precision."""
    for axis in range(1, x.ndim):
        edges = np.linspace(0, x.shape[axis], CELLS + 1).astype(int)
        counts = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        x = np.add.reduceat(x, edges[:-1], axis=axis, dtype=np.float64) / counts
    return x.reshape(len(x), -1)

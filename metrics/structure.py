"""Structural similarity of volumes, and the diversity of a set."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import convolve1d

# The published weights are for five scales, which volumes of 24 to 32 slices do not have: the first three, scaled to 1.
WEIGHTS = tuple(weight / 0.6305 for weight in (0.0448, 0.2856, 0.3001))
KERNEL = 5
SIGMA = 1.5


def ms_ssim(x: np.ndarray, y: np.ndarray, *, data_range: float = 1.0) -> float:
    """Multi-scale structural similarity over three scales, with a Gaussian window of 5 voxels along each axis.

    Source: Wang et al. 2003, "Multi-scale structural similarity for image quality assessment", equation 7; the windows
    lie wholly inside the image, and each scale is the mean of 2 x 2 x 2 voxels of the one before.

    Args:
        x: Image, two or three axes of at least 20 samples.
        y: Image of the same shape.
        data_range: Difference between the largest and the smallest value an image may have.

    Returns:
        1 for equal images; negative terms count as 0.

    Raises:
        ValueError: The shapes differ or are too small.
    """
    least = KERNEL * 2 ** (len(WEIGHTS) - 1)
    if x.shape != y.shape or min(x.shape) < least:
        raise ValueError(f"Images of shapes {x.shape} and {y.shape} are due to be equal, with {least} along each axis.")
    x, y = x.astype(np.float64), y.astype(np.float64)
    result = 1.0
    for scale, weight in enumerate(WEIGHTS):
        luminance, contrast = _terms(x, y, data_range)
        last = scale == len(WEIGHTS) - 1
        term = float((luminance * contrast).mean() if last else contrast.mean())
        result *= max(term, 0.0) ** weight
        if not last:
            x, y = _halve(x), _halve(y)
    return result


def diversity(
    load: Callable[[int], np.ndarray],
    count: int,
    *,
    pairs: int = 100,
    seed: int = 0,
    patients: Sequence[str] | None = None,
) -> tuple[float, float | None, int]:
    """Mean MS-SSIM over random pairs of images of different patients: high where a set's images resemble each other.

    Pairs that share a patient are not independent, so the standard error is that of the jackknife over patients, each
    left out with all pairs (Arvesen 1969, "Jackknifing U-statistics").

    Args:
        load: Gives image i, values in 0..1; only two are held at a time.
        count: Number of images.
        pairs: Pairs drawn without replacement; all there are where there are fewer.
        seed: Seed of the drawing.
        patients: Patient of each image; None takes each image for a patient.

    Returns:
        Mean, its standard error (None where leaving a patient out leaves no pair), and number of pairs.

    Raises:
        ValueError: There are no two images of different patients, or they are too small.
    """
    _, codes = np.unique(np.asarray(patients or range(count), str), return_inverse=True)
    first, second = np.triu_indices(count, 1)
    different = codes[first] != codes[second]
    first, second = first[different], second[different]
    if len(first) == 0:
        raise ValueError(f"{count} images have no pairs of different patients.")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(first), min(pairs, len(first)), replace=False))
    values = []
    held: tuple[int, np.ndarray] | None = None
    for i, j in zip(first[chosen].tolist(), second[chosen].tolist(), strict=True):
        held = held if held is not None and held[0] == i else (i, load(i))
        values.append(ms_ssim(held[1], load(j)))
    found = np.array(values)
    return float(found.mean()), _jackknife(found, codes[first[chosen]], codes[second[chosen]]), len(values)


def _jackknife(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> float | None:
    """Standard error of the mean of pairs, from leaving out each patient of any pair in turn."""
    means = []
    for patient in np.union1d(first, second):
        kept = values[(first != patient) & (second != patient)]
        if len(kept) == 0:
            return None
        means.append(kept.mean())
    return float(np.sqrt((len(means) - 1) * np.var(means)))


def _window(x: np.ndarray) -> np.ndarray:
    """Local Gaussian means, where the window lies inside."""
    offsets = np.arange(KERNEL) - KERNEL // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in range(x.ndim):
        x = convolve1d(x, weights, axis=axis)
    inner = slice(KERNEL // 2, -(KERNEL // 2))
    return x[(inner,) * x.ndim]


def _terms(x: np.ndarray, y: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure, at each voxel."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variance_x + variance_y + c2)


def _halve(x: np.ndarray) -> np.ndarray:
    """Means of 2 samples along each axis; an odd one at the end is dropped."""
    for axis in range(x.ndim):
        even = x.shape[axis] // 2 * 2
        x = np.moveaxis(x, axis, 0)[:even]
        x = np.moveaxis((x[0::2] + x[1::2]) / 2, 0, axis)
    return x

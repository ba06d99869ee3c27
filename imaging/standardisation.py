"""Exams as a classifier sees them: the body alone, each sequence standardised, on one grid."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .exams import Exam, read_aligned
from .spec import ImageSpec
from .volume import Volume, crop_or_pad, resample_spacing

KIND = "standard_score"
KEYS = frozenset({"kind", "lower", "upper", "sharpness"})
# What differs from the background by less than this share of the robust range is background too.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StandardScore:
    """Soft clipping between two percentiles, then zero mean and unit standard deviation.

    Args:
        lower: Percentile of each image at which values are bent towards a floor.
        upper: Likewise at the top.
        sharpness: How sharp the bends are, in units of one over the range between the two percentiles.
    """

    lower: float
    upper: float
    sharpness: float

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Standardises an image.

        Args:
            array: Values in any unit, any shape, finite. A linear map of them changes nothing in the result.

        Returns:
            float32, same shape, mean 0 and standard deviation 1.

        Raises:
            InputError: The two percentiles fall on one value, so that there is no contrast.
        """
        values = np.asarray(array, dtype=np.float64)
        low, high = np.percentile(values, [self.lower, self.upper])
        if not high > low:
            raise InputError(
                f"The {self.lower:g} and {self.upper:g} percentiles are both {low:g}: there is no contrast.",
                "Check that the image is not nearly constant.",
            )
        clipped = soft_clip((values - low) / (high - low), self.sharpness)
        return np.asarray((clipped - clipped.mean()) / clipped.std(), dtype=np.float32)


def parse_standard_score(config: Mapping[str, object]) -> StandardScore:
    """Reads a table `{kind, lower, upper, sharpness}` of kind standard_score; InputError where it is not one."""
    unknown = sorted(set(config) - KEYS)
    numbers = {key: config.get(key) for key in ("lower", "upper", "sharpness")}
    good = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers.values())
    if config.get("kind") != KIND or unknown or not good:
        raise InputError(
            f"The intensity table {dict(config)} is not that of a classifier.",
            'Write { kind = "standard_score", lower = 2.0, upper = 98.0, sharpness = 20.0 }.',
        )
    lower, upper, sharpness = (float(str(value)) for value in numbers.values())
    if not 0 <= lower < upper <= 100 or not sharpness > 0:
        raise InputError(
            f"The percentiles {lower:g} and {upper:g} with sharpness {sharpness:g} cannot be used.",
            "Give an increasing pair within 0..100 and a positive sharpness.",
        )
    return StandardScore(lower, upper, sharpness)


def soft_clip(unit: np.ndarray, sharpness: float) -> np.ndarray:
    """Bends values outside 0..1 smoothly towards that range: u + (s(-u) - s(u - 1)), s(v) = log(1 + exp(kv)) / k.

    Args:
        unit: Values whose range of interest is 0..1, any shape.
        sharpness: k; the larger, the closer to plain clipping.

    Returns:
        float64 in 0..1, strictly increasing with the input but for rounding.
    """
    unit = np.asarray(unit, dtype=np.float64)
    below = np.logaddexp(0.0, -sharpness * unit) / sharpness
    above = np.logaddexp(0.0, sharpness * (unit - 1.0)) / sharpness
    return np.asarray(unit + below - above)


def foreground_box(array: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds everything but background.

    Background is what lies within a hundredth of the robust range (percentiles 2 to 98) of the lowest value. A linear
    map of the intensities does not move the box, so it is the same for a raw, a scaled and a z-scored volume.

    Args:
        array: [x, y, z], finite.

    Returns:
        One slice per axis; the whole volume where nothing stands out.
    """
    low, high = np.percentile(array, [2.0, 98.0])
    inside = array > array.min() + TOLERANCE * (high - low)
    slices = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        slices.append(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(None))
    return slices[0], slices[1], slices[2]


def crop_volume(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """Cuts a box out of a volume; voxels keep their position."""
    start = np.array([each.start or 0 for each in box], dtype=np.float64)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ start + volume.affine[:3, 3]
    return Volume(volume.data[box], affine)


def standardise_exam(exam: Exam, spec: ImageSpec) -> np.ndarray:
    """Reads an exam and puts it on a classifier's grid.

    The first channel is reoriented and cut to its foreground, the others are resampled onto its grid; all go to the
    grid's spacing, are standardised there, and are cut or extended around the middle. New voxels get the lowest value
    of their channel. Source: Grabke et al., section 3.3 (training details).

    Args:
        exam: What to read.
        spec: The classifier's image; each channel's intensity table is that of `parse_standard_score`.

    Returns:
        float32 `[C, X, Y, Z]`.

    Raises:
        InputError: See `exams.read_aligned`; or a channel has no contrast.
    """
    volumes, _ = read_aligned(exam, spec)
    box = foreground_box(volumes[0].data)
    arrays = []
    for channel, volume in zip(spec.channels, volumes, strict=True):
        cut = crop_volume(volume, box)
        if spec.spacing_mm is not None:
            cut = resample_spacing(cut, spec.spacing_mm)
        try:
            values = parse_standard_score(channel.intensity).apply(cut.data)
        except InputError as error:
            raise InputError(f"Exam {exam.id!r}, channel {channel.name!r}: {error.message}", error.remedy) from error
        arrays.append(crop_or_pad(Volume(values, cut.affine), spec.shape).data)
    return np.stack(arrays)

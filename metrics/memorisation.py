"""Memorisation: does a generated image repeat one that the model was trained on?

For every generated image the largest Pearson correlation with any training image is found, mirrored copies included.
What counts as large is told by independent real images against the same training set. Source: Niehues et al. 2024,
"Using histopathology latent diffusion models as privacy-preserving dataset augmenters".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Each kind of copy that is looked for: the axes along which the training image is mirrored.
MIRRORS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,))
# An image is flagged where it lies this many robust standard deviations above the median of independent images.
FLAG_DEVIATIONS = 6.0
# A correlation of 1 would be infinitely far away.
NEARLY_ONE = 1.0 - 1e-9
# Standard deviation of a normal distribution over its median absolute deviation.
SIGMA_OF_MAD = 1.4826
# Below it even a set of nearly equal images does not make a copy.
LEAST_DEVIATION = 0.02


class Images(Protocol):
    """Images that are loaded one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each query.

    Attributes:
        correlation: Largest Pearson correlation, [n]; 0 for an image without contrast.
        index: Which training image, [n]; -1 where every one was excluded.
        mirror: Which of the mirrors, [n].
    """

    correlation: np.ndarray
    index: np.ndarray
    mirror: np.ndarray


def find_nearest(
    queries: Images,
    references: Images,
    *,
    mirrors: Sequence[tuple[int, ...]] = MIRRORS,
    query_groups: Sequence[str] | None = None,
    reference_groups: Sequence[str] | None = None,
    block_bytes: int = 2**28,
) -> Nearest:
    """The training image that each query resembles most.

    Streams: a block of queries is held in memory while the references pass by in blocks, so that memory is about
    three times `block_bytes` whatever the number and size of the images.

    Args:
        queries: Images of one shape.
        references: Images of that shape.
        mirrors: Axes, counted from the first of an image, along which references are mirrored too.
        query_groups: Patient of each query; a reference of the same patient is passed over.
        reference_groups: Patient of each reference.
        block_bytes: Size of a block.

    Returns:
        Correlations and where they were found.

    Raises:
        ValueError: There is no image, the shapes differ, or only one of the groups is given.
    """
    if len(queries) == 0 or len(references) == 0:
        raise ValueError(f"{len(queries)} queries and {len(references)} references cannot be compared.")
    if (query_groups is None) != (reference_groups is None):
        raise ValueError("Groups are due for queries and references alike.")
    shape = queries[0].shape
    rows = max(1, block_bytes // (4 * int(np.prod(shape))))
    parts = []
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        block = _normalise(_stack(queries, start, stop, shape))
        groups = None if query_groups is None else np.asarray(query_groups[start:stop], object)
        parts.append(_search(block, references, shape, mirrors, groups, reference_groups, rows))
    return Nearest(*(np.concatenate([part[field] for part in parts]) for field in range(3)))


def _search(
    block: np.ndarray,
    references: Images,
    shape: tuple[int, ...],
    mirrors: Sequence[tuple[int, ...]],
    groups: np.ndarray | None,
    reference_groups: Sequence[str] | None,
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best correlation, reference and mirror of each row of a block."""
    best = np.full(len(block), -np.inf)
    index, kind = np.full(len(block), -1), np.zeros(len(block), int)
    for start in range(0, len(references), rows):
        stop = min(start + rows, len(references))
        images = _stack(references, start, stop, shape)
        rows_of = _normalise(images)
        for number, axes in enumerate(mirrors):
            # Axis 0 is the image's number.
            # A mirrored image keeps its mean and length.
            mirrored = np.flip(images, tuple(axis + 1 for axis in axes)).reshape(rows_of.shape) if axes else rows_of
            scores = block @ mirrored.T
            if groups is not None and reference_groups is not None:
                same = groups[:, None] == np.asarray(reference_groups[start:stop], object)[None]
                scores = np.where(same, -np.inf, scores)
            place = scores.argmax(1)
            found = scores[np.arange(len(block)), place]
            better = found > best
            best[better], index[better], kind[better] = found[better], start + place[better], number
    return np.where(np.isfinite(best), np.clip(best, -1.0, 1.0), 0.0), index, kind


def _stack(images: Images, start: int, stop: int, shape: tuple[int, ...]) -> np.ndarray:
    block = np.empty((stop - start, *shape), np.float32)
    for row, number in enumerate(range(start, stop)):
        image = images[number]
        if image.shape != shape:
            raise ValueError(f"Image {number} has shape {image.shape}; the others have {shape}.")
        block[row] = image
    return block


def _normalise(images: np.ndarray) -> np.ndarray:
    """Brings each image in place to mean 0 and length 1, so that products are correlations; one without contrast to 0.

    Returns:
        The images as rows, [n, samples], in the same memory.
    """
    rows = images.reshape(len(images), -1)
    for number in range(len(rows)):
        rows[number] -= float(rows[number].mean(dtype=np.float64))
        length = float(np.sqrt(np.dot(rows[number], rows[number])))
        rows[number] /= length if length > 0 else 1.0
    return rows


def copy_threshold(independent: np.ndarray) -> float:
    """Correlation above which an image is a suspected copy.

    Args:
        independent: Largest correlations of images that are no copies, [n].

    Returns:
        Six robust standard deviations above their median on the scale of Fisher's z (the inverse hyperbolic tangent),
        on which the spread of a correlation hardly depends on its size.

    Raises:
        ValueError: There are fewer than three.
    """
    if len(independent) < 3:
        raise ValueError(f"{len(independent)} independent images tell no spread.")
    z = np.arctanh(np.clip(independent, -NEARLY_ONE, NEARLY_ONE))
    middle = np.median(z)
    spread = max(SIGMA_OF_MAD * float(np.median(np.abs(z - middle))), LEAST_DEVIATION)
    return float(np.tanh(middle + FLAG_DEVIATIONS * spread))


def shrink(image: np.ndarray, most: int) -> np.ndarray:
    """Means of whole cells of neighbouring samples, at most `most` along each axis.

    The audit compares whole images, which agree or differ at every scale; the means lose a copy's noise, not the copy.

    Args:
        image: Any number of axes.
        most: Samples left along each axis.

    Returns:
        float32; samples that do not fill a cell at the far end are dropped.
    """
    image = np.asarray(image, np.float32)
    for axis, size in enumerate(image.shape):
        step = -(-size // most)
        if step > 1:
            moved = np.moveaxis(image, axis, 0)[: size // step * step]
            image = np.moveaxis(moved.reshape(size // step, step, *moved.shape[1:]).mean(1), 0, axis)
    return np.ascontiguousarray(image)

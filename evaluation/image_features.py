"""One pass over a set of exams: features, small copies for the memorisation audit, histograms, a few whole exams."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..metrics.memorisation import shrink
from ..zoo.extractors import Extractor
from .image_sets import ImageSet

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SLICES = 8
# Slices at the ends of an axis show little of the organ; those without contrast are padding.
CENTRAL_PART = 0.7
LEAST_CONTRAST = 0.02
SLICE_POLICY = f"{SLICES} evenly spaced in the central {CENTRAL_PART:.0%} of the slices with contrast, native pixels"
# The audit compares means over cells, at most so many along each axis.
AUDIT_GRID = 32
BINS = 64
KEPT = 32
KEPT_BYTES = 512 * 2**20

Key = tuple[str, str, str]


@dataclass
class Summary:
    """What one pass over a set leaves.

    Attributes:
        features: Per (sequence, extractor, view) the features of the drawn exams, [n, rows per exam, d].
        small: Per sequence small copies of every exam, [exams, x, y, z], in a file that goes with the process.
        histograms: Per sequence counts of voxels over BINS equal parts of 0..1.
        kept: A few whole exams by index, [sequence, x, y, z] in half precision.
        digests: SHA-256 of each exam's files, in the order of the sequences.
    """

    features: dict[Key, np.ndarray] = field(default_factory=dict)
    small: dict[str, np.ndarray] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    kept: dict[int, np.ndarray] = field(default_factory=dict)
    digests: list[tuple[str, ...]] = field(default_factory=list)


def summarise_set(
    images: ImageSet,
    drawn: Sequence[int],
    extractors: Sequence[Extractor],
    *,
    seed: int,
    on_item: Callable[[], None] = lambda: None,
) -> Summary:
    """Reads every exam of a set once.

    Args:
        images: The set.
        drawn: Indices of the exams whose features are wanted, ascending.
        extractors: What computes them.
        seed: Decides which exams are kept whole.
        on_item: Called after each exam.

    Returns:
        The summary.

    Raises:
        InputError: An exam cannot be used.
    """
    summary = Summary()
    names = images.spec.channel_names
    wanted = set(drawn)
    keep = _choose_kept(images, drawn, seed)
    features: dict[Key, list[np.ndarray]] = {}
    for index in range(len(images)):
        array = images.load(index)
        summary.digests.append(images.digests(index))
        for name, volume in zip(names, array, strict=True):
            _store_small(summary, name, volume, index, len(images))
            counts = np.histogram(volume, BINS, (0.0, 1.0))[0]
            summary.histograms[name] = summary.histograms.get(name, 0) + counts
            if index in wanted:
                for extractor in extractors:
                    for view, rows in extract_views(extractor, volume).items():
                        features.setdefault((name, extractor.card.id, view), []).append(rows)
        if index in keep:
            summary.kept[index] = array.astype(np.float16)
        on_item()
    summary.features = {key: np.stack(rows) for key, rows in features.items()}
    return summary


def extract_views(extractor: Extractor, volume: np.ndarray) -> dict[str, np.ndarray]:
    """Features of a volume as a whole and of its slices in each plane, as far as the extractor takes them.

    Args:
        extractor: An extractor.
        volume: Values in 0..1, [x, y, z] in RAS.

    Returns:
        [1, d] under "volume", [SLICES, d] under each of PLANES.
    """
    views = {}
    if "volume" in extractor.card.inputs:
        views["volume"] = extractor.extract(volume[None])
    if "slice" in extractor.card.inputs:
        for plane, axis in PLANES.items():
            stack = np.moveaxis(volume, axis, 0)
            views[plane] = extractor.extract(stack[choose_slices(stack)])
    return views


def choose_slices(stack: np.ndarray) -> np.ndarray:
    """Indices of SLICES slices of a stack [slice, row, column]: see SLICE_POLICY; fewer slices are repeated."""
    contrast = np.ptp(stack.reshape(len(stack), -1), axis=1)
    full = np.flatnonzero(contrast >= LEAST_CONTRAST)
    if len(full) == 0:
        full = np.arange(len(stack))
    edge = (1.0 - CENTRAL_PART) / 2.0 * (len(full) - 1)
    return full[np.rint(np.linspace(edge, len(full) - 1 - edge, SLICES)).astype(int)]


def _choose_kept(images: ImageSet, drawn: Sequence[int], seed: int) -> set[int]:
    if not drawn:
        return set()
    size = 2 * int(np.prod(images.spec.array_shape))
    count = max(2, min(KEPT, len(drawn), KEPT_BYTES // size))
    return set(np.random.default_rng(seed).choice(np.asarray(drawn), count, replace=False).tolist())


def _store_small(summary: Summary, name: str, volume: np.ndarray, index: int, count: int) -> None:
    small = shrink(volume, AUDIT_GRID)
    if name not in summary.small:
        # On disk, since thousands of exams need not fit into memory; the file has no name and ends with the process.
        with tempfile.TemporaryFile() as file:
            summary.small[name] = np.memmap(file, np.float16, "w+", shape=(count, *small.shape))
    summary.small[name][index] = small

"""Does a prostate exam show what its report says? Readings of volumes, and how they agree with the findings.

The reader is a small segmentation network that has seen phantoms with known truth and no generated image. It labels
each voxel as background, peripheral zone, transition zone, or lesion in either zone; everything below is arithmetic on
its probabilities. The same reader on the phantoms themselves is the ceiling that generated exams are compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

CLASSES = ("background", "peripheral zone", "transition zone", "lesion in PZ", "lesion in TZ")


@dataclass(frozen=True)
class Reading:
    """What a reader sees in one exam.

    Attributes:
        lesion_score: Highest local mean of the lesion probability inside the exam, 0..1.
        side: "left" or "right" of the gland's centre, for the most suspicious place.
        zone: "PZ" or "TZ", likewise.
        diameter_mm: Diameter of the sphere with the volume of the most suspicious region; 0 where none reaches 0.5.
        adc_contrast: Mean ADC of the most suspicious place over the median ADC of the gland; below 1 is restricted.
    """

    lesion_score: float
    side: str
    zone: str
    diameter_mm: float
    adc_contrast: float


@dataclass(frozen=True)
class Truth:
    """The index lesion of an exam as its report states it; fields are None where there is no lesion."""

    positive: bool
    side: str | None = None
    zone: str | None = None
    diameter_mm: float | None = None
    sector: str | None = None


@dataclass(frozen=True)
class Share:
    """A share of some lesions.

    Attributes:
        value: The share, 0..1.
        interval: Its 95 % score interval (Wilson 1927), which holds for few lesions too.
    """

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class PlaceAccuracy:
    """Agreement over the lesions of one place.

    Attributes:
        zone: "PZ" or "TZ".
        sector: The part of the zone.
        lesions: How many index lesions lie there.
        side: Share that is read on the right side.
        zone_read: Share that is read in its zone.
    """

    zone: str
    sector: str
    lesions: int
    side: Share
    zone_read: Share


def read_exam(probabilities: np.ndarray, adc: np.ndarray, spacing_mm: Sequence[float]) -> Reading:
    """Turns voxel probabilities into a reading.

    Args:
        probabilities: The five CLASSES, [5, x, y, z], summing to 1; x grows to the patient's right.
        adc: ADC on the same grid, [x, y, z], any linear unit.
        spacing_mm: Voxel size along x, y, z.

    Returns:
        The reading. Without any gland the exam's centre stands for the gland's.

    Raises:
        ValueError: The shapes do not fit.
    """
    if probabilities.shape != (len(CLASSES), *adc.shape) or len(spacing_mm) != 3:
        raise ValueError(f"Probabilities {probabilities.shape} do not fit an ADC volume {adc.shape}.")
    lesion = probabilities[3] + probabilities[4]
    # A Gaussian of 2 mm asks for a region, not a voxel.
    local = ndimage.gaussian_filter(lesion, [2.0 / mm for mm in spacing_mm], mode="constant")
    peak = np.unravel_index(int(local.argmax()), local.shape)
    gland = probabilities[1:].sum(0) > 0.5
    centre_x = ndimage.center_of_mass(gland)[0] if gland.any() else (adc.shape[0] - 1) / 2
    region = np.zeros(adc.shape, bool)
    labels, _ = ndimage.label(lesion > 0.5)
    if labels[peak]:
        region = labels == labels[peak]
    else:
        region[peak] = True
    volume_mm3 = float(region.sum() * np.prod(spacing_mm)) if labels[peak] else 0.0
    weights = lesion * region
    column = probabilities[:, region] @ weights[region]
    reference = float(np.median(adc[gland])) if gland.any() else float(np.median(adc))
    return Reading(
        lesion_score=float(local[peak]),
        side="left" if peak[0] < centre_x else "right",
        zone="PZ" if column[3] >= column[4] else "TZ",
        diameter_mm=float((6.0 * volume_mm3 / np.pi) ** (1 / 3)),
        adc_contrast=float(adc[region].mean()) / reference if reference > 0 else float("nan"),
    )


def compare_readings(readings: Sequence[Reading], truths: Sequence[Truth]) -> dict[str, float]:
    """Agreement of readings with what the reports say.

    Args:
        readings: One per exam.
        truths: One per exam, in the same order.

    Returns:
        `lesion_auc` over all exams; over the positive ones `side_accuracy`, `zone_accuracy` (index lesion),
        `size_spearman` (rank correlation of diameters) and `adc_contrast` (median); `n` and `positives`.

    Raises:
        ValueError: The lengths differ, or one of the two classes is missing.
    """
    if len(readings) != len(truths):
        raise ValueError(f"There are {len(readings)} readings for {len(truths)} exams.")
    positive = np.array([truth.positive for truth in truths])
    if positive.all() or not positive.any():
        raise ValueError("Prompt fidelity needs exams with and without a lesion; all are of one kind.")
    pairs = [(reading, truth) for reading, truth in zip(readings, truths, strict=True) if truth.positive]
    sizes = np.array([[reading.diameter_mm, truth.diameter_mm] for reading, truth in pairs], float)
    return {
        "n": float(len(truths)),
        "positives": float(positive.sum()),
        "lesion_auc": float(roc_auc_score(positive, [reading.lesion_score for reading in readings])),
        "side_accuracy": float(np.mean([reading.side == truth.side for reading, truth in pairs])),
        "zone_accuracy": float(np.mean([reading.zone == truth.zone for reading, truth in pairs])),
        "size_spearman": float(stats.spearmanr(sizes[:, 0], sizes[:, 1]).statistic),
        "adc_contrast": float(np.median([reading.adc_contrast for reading, _ in pairs])),
    }


def compare_places(readings: Sequence[Reading], truths: Sequence[Truth]) -> list[PlaceAccuracy]:
    """Agreement in side and zone, place by place: which lesions are drawn elsewhere than the report says?

    Args:
        readings: One per exam.
        truths: One per exam, in the same order; exams without a lesion or without a sector are left out.

    Returns:
        One entry per zone and sector that occurs, in alphabetical order.

    Raises:
        ValueError: The lengths differ.
    """
    pairs: dict[tuple[str, str], list[tuple[Reading, Truth]]] = {}
    for reading, truth in zip(readings, truths, strict=True):
        if truth.zone is not None and truth.sector is not None:
            pairs.setdefault((truth.zone, truth.sector), []).append((reading, truth))
    return [
        PlaceAccuracy(
            zone,
            sector,
            len(own),
            _share(sum(reading.side == truth.side for reading, truth in own), len(own)),
            _share(sum(reading.zone == truth.zone for reading, truth in own), len(own)),
        )
        for (zone, sector), own in sorted(pairs.items())
    ]


def _share(right: int, all_of_them: int) -> Share:
    bounds = stats.binomtest(right, all_of_them).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(right / all_of_them, (float(bounds.low), float(bounds.high)))


def bootstrap_intervals(
    readings: Sequence[Reading], truths: Sequence[Truth], *, repeats: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `compare_readings`, exams drawn with replacement within each class.

    Args:
        readings: One per exam.
        truths: One per exam.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound per figure.
    """
    rng = np.random.default_rng(seed)
    positive = np.array([truth.positive for truth in truths])
    groups = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    draws = []
    for _ in range(repeats):
        chosen = np.concatenate([rng.choice(group, len(group)) for group in groups])
        draws.append(compare_readings([readings[i] for i in chosen], [truths[i] for i in chosen]))
    names = [name for name in draws[0] if name not in ("n", "positives")]
    bounds = {name: np.nanpercentile([draw[name] for draw in draws], [2.5, 97.5]) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

"""The memorisation audit of a set: nearest training images, beside what independent real images reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.memorisation import MIRRORS, Images, Nearest, copy_threshold, find_nearest

INDEPENDENT = 200
LISTED = 10


@dataclass(frozen=True)
class Pool:
    """Images to audit, with their names.

    Attributes:
        images: Loaded one at a time.
        ids: One per image.
        patients: One per image.
    """

    images: Images
    ids: Sequence[str]
    patients: Sequence[str]


def audit_memorisation(
    synthetic: Pool,
    training: Pool,
    independent: Pool | None,
    *,
    seed: int,
    mirrors: Sequence[tuple[int, ...]] = MIRRORS,
) -> dict[str, Any]:
    """Largest Pearson correlation of each synthetic image with any training image, and which are suspected copies.

    Args:
        synthetic: What a model made.
        training: What it was trained on.
        independent: Real images that it was not trained on; None takes up to 200 training images, each against those of
            other patients.
        seed: Seed of that choice.
        mirrors: See `metrics.memorisation.find_nearest`.

    Returns:
        JSON-able: statistics of both groups, the threshold, the ids of flagged images, and the nearest pairs.
    """
    found = find_nearest(synthetic.images, training.images, mirrors=mirrors)
    if independent is None:
        reference, source = _leave_one_out(training, seed, mirrors)
    else:
        reference = find_nearest(independent.images, training.images, mirrors=mirrors).correlation
        source = f"{len(reference)} real exams of the holdout set"
    threshold = copy_threshold(reference)
    order = np.argsort(-found.correlation, kind="stable")
    return {
        "metric": "pearson",
        "grid": list(synthetic.images[0].shape),
        "mirrors": [list(axes) for axes in mirrors],
        "training_images": len(training.ids),
        "synthetic": _statistics(found.correlation),
        "independent": {"source": source, **_statistics(reference)},
        "threshold": threshold,
        "flagged": [synthetic.ids[i] for i in order if found.correlation[i] > threshold],
        "nearest": [_pair(synthetic, training, found, int(i), mirrors) for i in order[:LISTED]],
        "correlations": {"synthetic": found.correlation.round(6).tolist(), "independent": reference.round(6).tolist()},
    }


def _leave_one_out(training: Pool, seed: int, mirrors: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, str]:
    count = min(INDEPENDENT, len(training.ids))
    chosen = np.sort(np.random.default_rng(seed).choice(len(training.ids), count, replace=False)).tolist()
    found = find_nearest(
        [training.images[i] for i in chosen],
        training.images,
        mirrors=mirrors,
        query_groups=[training.patients[i] for i in chosen],
        reference_groups=training.patients,
    )
    return found.correlation, f"{count} training exams, each against those of other patients"


def _pair(
    synthetic: Pool, training: Pool, found: Nearest, index: int, mirrors: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    return {
        "id": synthetic.ids[index],
        "training_id": training.ids[int(found.index[index])],
        "correlation": float(found.correlation[index]),
        "mirrored_axes": list(mirrors[int(found.mirror[index])]),
    }


def _statistics(correlation: np.ndarray) -> dict[str, float]:
    p5, median, p95 = np.percentile(correlation, [5, 50, 95])
    return {
        "n": len(correlation),
        "mean": float(correlation.mean()),
        "median": float(median),
        "p5": float(p5),
        "p95": float(p95),
        "max": float(correlation.max()),
    }

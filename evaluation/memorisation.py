"""The memorisation audit of a set: nearest training images, beside what independent real images reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.memorisation import MIRRORS, Images, Nearest, copy_threshold, find_nearest

INDEPENDENT = 200
LISTED = 10
# Two images that agree so far are one, saved twice; independent exams of one sequence stay far below.
IDENTICAL = 0.9999
# A yardstick of which half agrees so far with the training set would let any copy pass.
HIGHEST_MEDIAN = 0.999
FEWEST_INDEPENDENT = 3
REMEDY = "Give --holdout real exams that the model was not trained on, under ids of their own."


@dataclass(frozen=True)
class Pool:
    """Images to audit, with their names.

    Attributes:
        images: Loaded one at a time.
        ids: One per image.
        patients: One per image.
        digests: What identifies the content of each image's file; empty where it is not known.
    """

    images: Images
    ids: Sequence[str]
    patients: Sequence[str]
    digests: Sequence[str] = ()


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

    Raises:
        InputError: The independent images are not independent, or too few are.
    """
    if independent is None:
        reference, source = _leave_one_out(training, seed, mirrors)
    else:
        reference, source = _hold_out(independent, training, mirrors)
    if len(reference) < FEWEST_INDEPENDENT:
        raise InputError(
            f"The memorisation audit has no yardstick: {len(reference)} real exams can be compared with training exams "
            "of other patients.",
            REMEDY,
        )
    median = float(np.median(reference))
    if median >= HIGHEST_MEDIAN:
        raise InputError(
            f"The memorisation audit has no yardstick: real exams that should be independent of the training exams "
            f"agree with these (median correlation {median:.5f}).",
            REMEDY if independent is not None else "Remove repeated exams from --real, or give --holdout.",
        )
    found = find_nearest(synthetic.images, training.images, mirrors=mirrors)
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


def refuse_shared(what: str, holdout: Iterable[str], training: Iterable[str]) -> None:
    """Refuses a holdout that shares something with the training set; InputError names the first."""
    shared = sorted(set(holdout) & set(training))
    if shared:
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise InputError(f"The holdout and the real set share the {what} {shared[0]!r}{more}.", REMEDY)


def _hold_out(independent: Pool, training: Pool, mirrors: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, str]:
    """Largest correlations of a holdout with training images of other patients; it may share no exam with them."""
    refuse_shared("exam", independent.ids, training.ids)
    known = dict(zip(training.digests, training.ids, strict=False))
    for identifier, digest in zip(independent.ids, independent.digests, strict=False):
        if digest in known:
            raise InputError(
                f"The holdout exam {identifier!r} has the file of the real exam {known[digest]!r}.", REMEDY
            )
    found = _compare_patients(independent.images, independent.patients, training, mirrors)
    most = int(found.correlation.argmax())
    if found.correlation[most] >= IDENTICAL:
        raise InputError(
            f"The holdout exam {independent.ids[most]!r} shows the image of the real exam "
            f"{training.ids[int(found.index[most])]!r} (correlation {found.correlation[most]:.6f}).",
            REMEDY,
        )
    source = f"{len(found.correlation)} real exams of the holdout set"
    shared = set(independent.patients) & set(training.patients)
    if shared:
        # Other seeds and other hospitals may name their patients alike, so this is no reason to refuse them.
        source += f", each against exams of other patients ({len(shared)} patients are named in both)"
    return found.correlation[found.index >= 0], source


def _leave_one_out(training: Pool, seed: int, mirrors: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, str]:
    """Largest correlations of training images with those of other patients; repeated images tell nothing and go."""
    count = min(INDEPENDENT, len(training.ids))
    chosen = np.sort(np.random.default_rng(seed).choice(len(training.ids), count, replace=False)).tolist()
    images, patients = [training.images[i] for i in chosen], [training.patients[i] for i in chosen]
    found = _compare_patients(images, patients, training, mirrors)
    compared = found.correlation[found.index >= 0]
    # Where most are repeated, the median of all says so.
    mostly_repeated = len(compared) > 0 and float(np.median(compared)) >= HIGHEST_MEDIAN
    single = compared if mostly_repeated else compared[compared < IDENTICAL]
    repeated = len(compared) - len(single)
    without = f", {repeated} repeated ones left out" if repeated else ""
    return single, f"{len(single)} training exams, each against those of other patients{without}"


def _compare_patients(
    images: Images, patients: Sequence[str], training: Pool, mirrors: Sequence[tuple[int, ...]]
) -> Nearest:
    return find_nearest(
        images, training.images, mirrors=mirrors, query_groups=patients, reference_groups=training.patients
    )


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

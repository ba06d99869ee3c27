"""95 % intervals of a classifier's figures and of the differences between two, where the data tell any.

The bootstrap knows nothing beyond the cases at hand. With few patients its intervals are too narrow, and where no
resample can give another value, as with a sensitivity of 1, they have no width at all. Such a figure gets exact bounds
where there are any, and otherwise no interval, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import CONFIDENCE, bootstrap_intervals
from .classification import FIGURES, check_cases, weighted_figures

Bounds = tuple[float, float]
# In simulations as those of `bench/metrics_agreement.py`, intervals of the area from 5 positive patients beside 60 to
# 200 others covered 88 to 92 %, from 2 of them 65 %, and from 8 of them 93 to 96 %.
FEWEST_PATIENTS = 8
BOOTSTRAP, EXACT = "bootstrap", "exact"


@dataclass(frozen=True)
class Interval:
    """An interval, or why there is none.

    Attributes:
        bounds: Lower and upper bound; None where there are none that could be trusted.
        method: BOOTSTRAP or EXACT; None without bounds.
        reason: Why there are no bounds; None where there are.
    """

    bounds: Bounds | None
    method: str | None
    reason: str | None = None


def figure_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of `classification.classification_figures`.

    Proportions and areas of exactly 0 or 1 have the exact bounds of `edge_bounds`, with each patient counted once. The
    average precision of perfectly ordered cases has none. All other intervals are those of
    `bootstrap.bootstrap_intervals`, unless the figure rests on fewer than FEWEST_PATIENTS patients.

    Args:
        labels: 0 or 1, [n].
        probabilities: Probability of class 1, [n].
        patients: Patient of each case, [n].
        threshold: Cases at or above it are called positive.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        An interval for each of FIGURES.

    Raises:
        ValueError: As `classification.classification_figures` and `bootstrap.bootstrap_intervals`.
    """
    labels, probabilities = check_cases(labels, probabilities)

    def figures(weights: np.ndarray) -> np.ndarray:
        return weighted_figures(labels, probabilities, weights, threshold)

    values = figures(np.ones((1, len(labels))))[0]
    carriers = _carriers(labels, probabilities >= threshold, patients)
    bounds = bootstrap_intervals(
        figures, patients, labels, repeats=repeats, seed=seed, sizes=[size for size, _ in carriers]
    )
    return {
        name: _choose(name, float(value), found, *carrier)
        for name, value, found, carrier in zip(FIGURES, values, bounds, carriers, strict=True)
    }


def difference_intervals(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of the difference first - second per figure, both read on the same resamples.

    Args:
        labels: 0 or 1, [n].
        first: Probabilities of one classifier, [n].
        second: Those of another on the same cases, [n].
        patients: Patient of each case, [n].
        threshold: As in `figure_intervals`.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        An interval for each of FIGURES; none where every resample gives the same difference, unless the classifiers
        are one.

    Raises:
        ValueError: As `figure_intervals`.
    """
    labels, first = check_cases(labels, first)
    labels, second = check_cases(labels, second)

    def figures(weights: np.ndarray) -> np.ndarray:
        one, other = (weighted_figures(labels, scores, weights, threshold) for scores in (first, second))
        return one - other

    values = figures(np.ones((1, len(labels))))[0]
    both = [_carriers(labels, scores >= threshold, patients) for scores in (first, second)]
    sizes = [min(one[0], other[0]) for one, other in zip(*both, strict=True)]
    bounds = bootstrap_intervals(figures, patients, labels, repeats=repeats, seed=seed, sizes=sizes)
    same = bool(np.array_equal(first, second))
    return {
        name: _choose_difference(name, float(value), found, size, same)
        for name, value, found, size in zip(FIGURES, values, bounds, sizes, strict=True)
    }


def edge_bounds(value: float, count: int) -> Bounds:
    """Exact 95 % bounds of a proportion that was observed to be 0 or 1.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", where all of n trials agree: the bound is the n-th root of 0.025. For an area under the ROC curve the
    trials are pairs of one positive and one negative case, no case in two of them: the area is the chance that a pair
    is in order, and all pairs are.

    Args:
        value: 0 or 1.
        count: Independent trials: patients, or pairs of patients.

    Returns:
        Lower and upper bound.
    """
    root = ((1 - CONFIDENCE) / 2) ** (1 / count)
    return (0.0, 1.0 - root) if value == 0 else (root, 1.0)


def _carriers(labels: np.ndarray, called: np.ndarray, patients: Sequence[str]) -> list[tuple[int, int]]:
    """How many patients each figure rests on, and how many independent trials it counts, in the order of FIGURES.

    Trials are patients with a case in the proportion's denominator, for areas pairs of patients. A predictive value
    also rests on the smaller class, since its numerator is of one class and its denominator of both.
    """
    names = np.asarray(patients, str)

    def count(cases: np.ndarray) -> int:
        return len(np.unique(names[cases]))

    positive = labels == 1
    everyone = count(np.ones_like(positive))
    with_positive = count(positive)
    pairs = min(with_positive, everyone - with_positive)
    proportions = [everyone, with_positive, count(~positive), count(called), count(~called)]
    rests_on = [*proportions[:3], *(min(pairs, each) for each in proportions[3:])]
    return [(pairs, pairs), (pairs, pairs), *zip(rests_on, proportions, strict=True)]


def _choose(name: str, value: float, found: Bounds | None, size: int, trials: int) -> Interval:
    if not np.isfinite(value):
        called = "positive" if name == "ppv" else "negative"
        return Interval(None, None, f"no exam is called {called}")
    if value in (0.0, 1.0):
        if name == "average_precision":
            return Interval(None, None, "all exams are in order, so no resample differs")
        return Interval(edge_bounds(value, trials), EXACT)
    return _bootstrapped(found, size)


def _choose_difference(name: str, value: float, found: Bounds | None, size: int, same: bool) -> Interval:
    if not np.isfinite(value):
        return Interval(None, None, f"one classifier has no {name}")
    if same:
        return Interval((0.0, 0.0), EXACT)
    return _bootstrapped(found, size)


def _bootstrapped(found: Bounds | None, size: int) -> Interval:
    if found is None or size < FEWEST_PATIENTS:
        return Interval(None, None, f"it rests on {size} patients; at least {FEWEST_PATIENTS} are due")
    if found[0] == found[1]:
        return Interval(None, None, "no resample differs")
    return Interval(found, BOOTSTRAP)

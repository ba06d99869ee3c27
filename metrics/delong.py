"""DeLong's test: are the areas under two ROC curves of the same cases different?"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

# Variances and differences below it are 0 but for rounding.
ROUNDING = 1e-15


@dataclass(frozen=True)
class AreaComparison:
    """Two areas under ROC curves of the same cases.

    Attributes:
        areas: Area of the first and of the second classifier.
        standard_errors: Of each area.
        difference: First minus second.
        standard_error: Of the difference.
        interval: 95 % interval of the difference; None with a `reason`.
        z: Difference over its standard error; 0 where both classifiers order the cases alike, None with a `reason`.
        p_value: Two-sided; 1 where both order the cases alike, None with a `reason`.
        reason: Why there is no test; None where there is one.
    """

    areas: tuple[float, float]
    standard_errors: tuple[float, float]
    difference: float
    standard_error: float
    interval: tuple[float, float] | None
    z: float | None
    p_value: float | None
    reason: str | None = None


def area_covariance(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curves of several classifiers on the same cases, and their covariance.

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
    operating characteristic curves"; the placements are computed from midranks (Sun and Xu 2014).

    Args:
        labels: 0 or 1, [n].
        scores: Higher for class 1, [classifiers, n].

    Returns:
        Areas [classifiers] and covariance [classifiers, classifiers].

    Raises:
        ValueError: A class has fewer than two cases, or the shapes do not fit.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if scores.ndim != 2 or scores.shape[1:] != labels.shape or min(m, n) < 2:
        raise ValueError(f"Scores {scores.shape} with {m} positive and {n} negative cases have no DeLong covariance.")
    everywhere = stats.rankdata(scores, axis=1)
    among_positive = stats.rankdata(scores[:, positive], axis=1)
    among_negative = stats.rankdata(scores[:, ~positive], axis=1)
    # Share of the other class below each case.
    placement_positive = (everywhere[:, positive] - among_positive) / n
    placement_negative = 1.0 - (everywhere[:, ~positive] - among_negative) / m
    covariance = np.cov(placement_positive) / m + np.cov(placement_negative) / n
    return placement_positive.mean(1), np.atleast_2d(covariance)


def compare_areas(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> AreaComparison:
    """DeLong's test of two classifiers on the same cases.

    Args:
        labels: 0 or 1, [n].
        first: Scores of one classifier, [n].
        second: Scores of the other, [n].

    Returns:
        The comparison.

    Raises:
        ValueError: As `area_covariance`.
    """
    areas, covariance = area_covariance(labels, np.stack([np.asarray(first), np.asarray(second)]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1])
    # Rounding may leave a variance of some 1e-18 where the two order the cases alike.
    error = float(np.sqrt(variance)) if variance > ROUNDING else 0.0
    first_error, second_error = (float(np.sqrt(max(covariance[i, i], 0.0))) for i in range(2))
    estimates = (float(areas[0]), float(areas[1])), (first_error, second_error), difference, error
    if not error and abs(difference) > ROUNDING:
        # As between a perfect classifier and a constant one: the placements do not vary, so they tell no spread.
        return AreaComparison(*estimates, None, None, None, "the areas differ, but their estimated variance is 0")
    z = difference / error if error else 0.0
    half = float(stats.norm.ppf(0.975)) * error
    p_value = float(2.0 * stats.norm.sf(abs(z)))
    return AreaComparison(*estimates, (difference - half, difference + half), z, p_value)

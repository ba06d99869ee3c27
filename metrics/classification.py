"""Figures of a binary classifier from its probabilities, with intervals that respect patients."""

from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import bootstrap_intervals

FIGURES = ("average_precision", "auc", "accuracy", "sensitivity", "specificity", "ppv", "npv")


def classification_figures(
    labels: np.ndarray, probabilities: np.ndarray, *, threshold: float = 0.5
) -> dict[str, float | None]:
    """Average precision, area under the ROC curve, and the figures of a threshold.

    Args:
        labels: 0 or 1, [n].
        probabilities: Probability of class 1, [n].
        threshold: Cases at or above it are called positive.

    Returns:
        The FIGURES; a predictive value is None where no case is called that way.

    Raises:
        ValueError: There is one class only, or the lengths differ.
    """
    labels, probabilities = _check(labels, probabilities)
    values = weighted_figures(labels, probabilities, np.ones((1, len(labels))), threshold)[0]
    return {name: _known(value) for name, value in zip(FIGURES, values, strict=True)}


def bootstrap_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `classification_figures`; see `bootstrap.bootstrap_intervals`.

    Args:
        labels: 0 or 1, [n].
        probabilities: Probability of class 1, [n].
        patients: Patient of each case, [n].
        threshold: As in `classification_figures`.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound per figure that is defined.

    Raises:
        ValueError: As `classification_figures` and `bootstrap.bootstrap_intervals`.
    """
    labels, probabilities = _check(labels, probabilities)

    def figures(weights: np.ndarray) -> np.ndarray:
        return weighted_figures(labels, probabilities, weights, threshold)

    return _named(bootstrap_intervals(figures, patients, labels, repeats=repeats, seed=seed))


def paired_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the difference first - second per figure, both read on the same resamples.

    Args:
        labels: 0 or 1, [n].
        first: Probabilities of one classifier, [n].
        second: Those of another on the same cases, [n].
        patients: Patient of each case, [n].
        threshold: As in `classification_figures`.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound per figure that is defined for both.

    Raises:
        ValueError: As `bootstrap_figures`.
    """
    labels, first = _check(labels, first)
    labels, second = _check(labels, second)

    def figures(weights: np.ndarray) -> np.ndarray:
        one, other = (weighted_figures(labels, scores, weights, threshold) for scores in (first, second))
        return one - other

    return _named(bootstrap_intervals(figures, patients, labels, repeats=repeats, seed=seed))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of several p values (Holm 1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def roc_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct probability."""
    labels, probabilities = _check(labels, probabilities)
    true, false = _counts(labels == 1, probabilities)
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def precision_recall_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision from the highest probability down, one point per distinct probability."""
    labels, probabilities = _check(labels, probabilities)
    true, false = _counts(labels == 1, probabilities)
    return true / true[-1], true / (true + false)


def _counts(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[ends]
    return true, ends + 1 - true


def weighted_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """FIGURES of cases that count `weights` times, [m, n] to [m, 7]; NaN where a predictive value is not defined.

    Ties count half in the area. The average precision is the sum over thresholds of precision times the recall gained,
    without interpolation.
    """
    order = np.argsort(-probabilities, kind="stable")
    scores, positive, weights = probabilities[order], labels[order] == 1, weights[:, order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(weights * positive, 1)[:, ends]
    false = np.cumsum(weights * ~positive, 1)[:, ends]
    p, n = true[:, -1], false[:, -1]
    gained, lost = np.diff(true, axis=1, prepend=0.0), np.diff(false, axis=1, prepend=0.0)
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
    called = int((scores[ends] >= threshold).sum())
    tp, fp = (x[:, called - 1] if called else np.zeros(len(x)) for x in (true, false))
    with np.errstate(invalid="ignore"):
        columns = (
            (gained * precision).sum(1) / p,
            (lost * (true - gained / 2)).sum(1) / (p * n),
            (tp + n - fp) / (p + n),
            tp / p,
            (n - fp) / n,
            tp / (tp + fp),
            (n - fp) / (n - fp + p - tp),
        )
    return np.stack(columns, axis=1)


def _named(intervals: Sequence[tuple[float, float] | None]) -> dict[str, tuple[float, float]]:
    return {name: bounds for name, bounds in zip(FIGURES, intervals, strict=True) if bounds is not None}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(f"Labels of shape {labels.shape} and probabilities of {probabilities.shape} do not fit.")
    if not np.isfinite(probabilities).all():
        raise ValueError("A probability is NaN or infinite.")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"Both classes are due; the labels are {sorted(set(labels.tolist()))}.")
    return labels, probabilities

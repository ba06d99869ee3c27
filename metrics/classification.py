"""Figures of a binary classifier from its probabilities; `intervals` has what they may be off by."""

from collections.abc import Mapping

import numpy as np

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
    labels, probabilities = check_cases(labels, probabilities)
    values = weighted_figures(labels, probabilities, np.ones((1, len(labels))), threshold)[0]
    return {name: _known(value) for name, value in zip(FIGURES, values, strict=True)}


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
    labels, probabilities = check_cases(labels, probabilities)
    true, false = _counts(labels == 1, probabilities)
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def precision_recall_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision from the highest probability down, one point per distinct probability."""
    labels, probabilities = check_cases(labels, probabilities)
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


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def check_cases(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities as arrays; ValueError where they do not fit, are not finite, or lack a class."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(f"Labels of shape {labels.shape} and probabilities of {probabilities.shape} do not fit.")
    if not np.isfinite(probabilities).all():
        raise ValueError("A probability is NaN or infinite.")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"Both classes are due; the labels are {sorted(set(labels.tolist()))}.")
    return labels, probabilities

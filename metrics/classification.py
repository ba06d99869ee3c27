"""Figures of a binary classifier from its probabilities, with intervals that respect patients."""

from collections.abc import Iterator, Mapping, Sequence

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
    labels, probabilities = _check(labels, probabilities)
    called = probabilities >= threshold
    positive = labels == 1
    true_positives = int((called & positive).sum())
    true_negatives = int((~called & ~positive).sum())
    return {
        "average_precision": _average_precision(positive, probabilities),
        "auc": _auc(positive, probabilities),
        "accuracy": (true_positives + true_negatives) / len(labels),
        "sensitivity": true_positives / int(positive.sum()),
        "specificity": true_negatives / int((~positive).sum()),
        "ppv": _share(true_positives, int(called.sum())),
        "npv": _share(true_negatives, int((~called).sum())),
    }


def bootstrap_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `classification_figures`; whole patients are drawn with replacement.

    Patients are drawn within two strata, those with a positive exam and those without, so that every resample has both
    classes.

    Args:
        labels: 0 or 1, [n].
        probabilities: Probability of class 1, [n].
        patients: Patient of each case, [n].
        threshold: As in `classification_figures`.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound per figure. Resamples in which a predictive value is not defined do not count for it.

    Raises:
        ValueError: As `classification_figures`; or every patient has a positive exam, so that there is no second
            stratum and some resamples could lack a class.
    """
    labels, probabilities = _check(labels, probabilities)
    draws: dict[str, list[float]] = {name: [] for name in FIGURES}
    for chosen in resample_patients(labels, patients, repeats, seed):
        figures = classification_figures(labels[chosen], probabilities[chosen], threshold=threshold)
        for name, value in figures.items():
            if value is not None:
                draws[name].append(value)
    return {name: _bounds(values) for name, values in draws.items() if values}


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
    """95 % percentile intervals of the difference first - second per figure, both read on the same resamples.

    Args:
        labels: 0 or 1, [n].
        first: Probabilities of one classifier, [n].
        second: Those of another on the same cases, [n].
        patients: Patient of each case, [n].
        threshold: As in `classification_figures`.
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound per figure.

    Raises:
        ValueError: As `bootstrap_figures`.
    """
    labels, first = _check(labels, first)
    labels, second = _check(labels, second)
    draws: dict[str, list[float]] = {name: [] for name in FIGURES}
    for chosen in resample_patients(labels, patients, repeats, seed):
        one = classification_figures(labels[chosen], first[chosen], threshold=threshold)
        other = classification_figures(labels[chosen], second[chosen], threshold=threshold)
        for name in FIGURES:
            a, b = one[name], other[name]
            if a is not None and b is not None:
                draws[name].append(a - b)
    return {name: _bounds(values) for name, values in draws.items() if values}


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


def _auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    true, false = _counts(positive, scores)
    return float(np.trapezoid(np.append(0, true), np.append(0, false)) / (true[-1] * false[-1]))


def _average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Sum over thresholds of precision times the recall gained, without interpolation."""
    true, false = _counts(positive, scores)
    return float((np.diff(true, prepend=0) * true / (true + false)).sum() / true[-1])


def resample_patients(labels: np.ndarray, patients: Sequence[str], repeats: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each resample: patients drawn with replacement among those with a positive exam and those without.

    Args:
        labels: 0 or 1, [n].
        patients: Patient of each case, [n].
        repeats: Number of resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: The lengths differ, or every patient has a positive exam.
    """
    if len(patients) != len(labels):
        raise ValueError(f"There are {len(patients)} patients for {len(labels)} labels.")
    rows: dict[str, list[int]] = {}
    for number, patient in enumerate(patients):
        rows.setdefault(patient, []).append(number)
    groups = [np.array(numbers) for numbers in rows.values()]
    strata = [[group for group in groups if bool(labels[group].any()) is kind] for kind in (True, False)]
    if not strata[1]:
        raise ValueError("Every patient has a positive exam, so resampled patients may all lack a negative one.")
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        drawn = [[stratum[i] for i in rng.integers(len(stratum), size=len(stratum))] for stratum in strata]
        yield np.concatenate([group for stratum in drawn for group in stratum])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _check(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(f"Labels of shape {labels.shape} and probabilities of {probabilities.shape} do not fit.")
    if not np.isfinite(probabilities).all():
        raise ValueError("A probability is NaN or infinite.")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"Both classes are due; the labels are {sorted(set(labels.tolist()))}.")
    return labels, probabilities

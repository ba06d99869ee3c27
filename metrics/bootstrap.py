"""Bootstrap intervals of figures of weighted cases; whole patients are drawn."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

Figures = Callable[[np.ndarray], np.ndarray]

CONFIDENCE = 0.95
# Resamples computed at a time.
BLOCK = 256
# What is left of the acceleration's denominator where it would reach 0 and the corrected level its limit.
LEAST_DENOMINATOR = 1e-6


def bootstrap_intervals(
    figures: Figures,
    patients: Sequence[str],
    labels: np.ndarray,
    *,
    repeats: int,
    seed: int,
    sizes: Sequence[int] | None = None,
) -> list[tuple[float, float] | None]:
    """95 % intervals by the bias-corrected and accelerated bootstrap, widened for small samples.

    Patients are drawn with replacement within two strata, those with a positive case and those without, so that every
    resample has both classes. Plain percentiles are too narrow and, for skewed figures, off to one side: the levels
    are shifted by bias and acceleration (Efron 1987, "Better bootstrap confidence intervals") and spread by Student's t
    (Hesterberg 2015, "What teachers should know about the bootstrap"). The figure itself always lies inside.

    Args:
        figures: Weights of the cases, [m, n], to figures [m, k]; NaN where a figure is not defined.
        patients: Patient of each case, [n].
        labels: 0 or 1, [n].
        repeats: Number of resamples.
        seed: Seed of the resampling.
        sizes: How many patients each figure rests on, [k], for Student's t; None takes the smaller stratum for all.

    Returns:
        Lower and upper bound per figure; None where no resample defines it. Resamples that do not define a figure do
        not count for it.

    Raises:
        ValueError: The lengths differ, or every patient has a positive case, so that resamples could lack a class.
    """
    of_case, strata = _strata(patients, labels)
    value = figures(np.ones((1, len(labels))))[0]
    draws = [figures(weights) for weights in draw_weights(patients, labels, repeats=repeats, seed=seed)]
    acceleration = _acceleration(figures, of_case, strata, value)
    rests_on = [min(map(len, strata))] * len(value) if sizes is None else sizes
    return [_bounds(*figure) for figure in zip(np.concatenate(draws).T, value, acceleration, rests_on, strict=True)]


def draw_weights(patients: Sequence[str], labels: np.ndarray, *, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """How often each case is in each resample, in blocks [m, n]; the resamples of `bootstrap_intervals`.

    Raises:
        ValueError: As `bootstrap_intervals`.
    """
    of_case, strata = _strata(patients, labels)
    rng = np.random.default_rng(seed)
    for start in range(0, repeats, BLOCK):
        count = np.zeros((min(BLOCK, repeats - start), sum(map(len, strata))))
        for stratum in strata:
            count[:, stratum] = rng.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)), len(count))
        yield count[:, of_case]


def _strata(patients: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The patient of each case, by number, and the patients with a positive case and those without."""
    if len(patients) != len(labels):
        raise ValueError(f"There are {len(patients)} patients for {len(labels)} labels.")
    names, of_case = np.unique(np.asarray(patients, str), return_inverse=True)
    positive = np.bincount(of_case, labels == 1, len(names)) > 0
    if positive.all():
        raise ValueError("Every patient has a positive exam, so resampled patients may all lack a negative one.")
    return of_case, [np.flatnonzero(positive), np.flatnonzero(~positive)]


def _acceleration(figures: Figures, of_case: np.ndarray, strata: list[np.ndarray], value: np.ndarray) -> np.ndarray:
    """How the spread of each figure changes with the figure, from leaving out each patient in turn."""
    influence = np.zeros((sum(map(len, strata)), len(value)))
    for stratum in strata:
        left_out = np.concatenate([figures((of_case != patient)[None].astype(float)) for patient in stratum])
        left_out = np.where(np.isfinite(left_out), left_out, value)
        influence[stratum] = (left_out.mean(0) - left_out) * (len(stratum) - 1) / len(stratum)
    squares = (influence**2).sum(0)
    cubes = (influence**3).sum(0)
    return np.divide(cubes, 6 * squares**1.5, out=np.zeros_like(cubes), where=squares > 0)


def _bounds(draws: np.ndarray, value: float, acceleration: float, size: int) -> tuple[float, float] | None:
    """Quantiles of one figure's resamples at the corrected levels."""
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0 or not np.isfinite(value):
        return None
    below = (defined < value).mean() + 0.5 * (defined == value).mean()
    bias = stats.norm.ppf(np.clip(below, 1 / (len(defined) + 1), len(defined) / (len(defined) + 1)))
    level = 0.5 + CONFIDENCE / 2
    half = stats.norm.ppf(level)
    if size > 1:
        half = np.sqrt(size / (size - 1)) * stats.t.ppf(level, size - 1)
    shifted = bias + np.array([-half, half])
    # The corrected level grows with the shifted one up to a pole; beyond it the formula comes back from the other end.
    levels = stats.norm.cdf(bias + shifted / np.maximum(1 - acceleration * shifted, LEAST_DENOMINATOR))
    low, high = np.quantile(defined, levels)
    return float(min(low, value)), float(max(high, value))

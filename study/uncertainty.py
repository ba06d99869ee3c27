"""How sure a mean over few trainings is, when all of them are judged on the same test patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# Student's t with as many degrees of freedom is the normal distribution.
MOST_FREEDOM = 1e9
Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure, or a difference of two, over the trials.

    Attributes:
        value: Mean over the trials.
        trials: The figure of each trial; of a difference, each trial's own.
        sd: Standard deviation over the trials; None for one trial.
        interval: 95 % interval over trainings and test patients; None for one trial, or too few patients.
        p_value: Two-sided, of a value of 0, by the same t statistic as `interval`; None where that is None.
        patients: 95 % interval over test patients alone, with these trained classifiers; None for too few patients.
    """

    value: float
    trials: tuple[float, ...]
    sd: float | None
    interval: Interval | None
    p_value: float | None
    patients: Interval | None


def estimate(
    trials: Sequence[float], draws: np.ndarray, patients: Interval | None, *, limits: Interval, smallest: int
) -> Estimate:
    """What is known of a figure from its trials and from resamples of the test patients.

    Args:
        trials: The figure of each trial, [j].
        draws: Of each trial on each resample, [j, m].
        patients: Interval of the mean over test patients alone.
        limits: Between which the figure can lie; intervals end there.
        smallest: Patients in the smaller stratum of the resamples.

    Returns:
        The estimate.
    """
    value, count = float(np.mean(trials)), len(trials)
    if count < 2:
        return Estimate(value, tuple(trials), None, None, None, patients)
    sd = float(np.std(trials, ddof=1))
    if patients is None or smallest < 2:
        return Estimate(value, tuple(trials), sd, None, None, patients)
    covariance = np.cov(draws)
    between = float(covariance[~np.eye(count, dtype=bool)].mean())
    # A resample of n patients varies less than a new sample of them, by (n - 1) / n.
    low, high, p_value = crossed_interval(trials, between * smallest / (smallest - 1))
    return Estimate(value, tuple(trials), sd, (max(low, limits[0]), min(high, limits[1])), p_value, patients)


def crossed_interval(trials: Sequence[float], covariance: float) -> tuple[float, float, float]:
    """Interval of a mean over trials that share their test patients, and the p value of a mean of 0.

    Trainings and patients are crossed random factors, as readers and cases are in studies of many readers: Obuchowski
    and Rockette 1995, "Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests", with the
    degrees of freedom of Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC
    analysis". The variance over trials holds what differs between trainings; what all of them owe to the same patients
    is their covariance:

        variance of the mean = s^2 / j + c,   degrees of freedom = (s^2 / j + c)^2 / ((s^2 / j)^2 / (j - 1))

    Three trainings suffice for it, since Student's t pays for their number: in simulation such intervals cover the
    truth in 89 % (trainings vary far more than patients) to 95 % (they do not vary), see docs/classifier.md. Drawing
    the three with replacement would not do: there are ten such draws, and they vary by a third less than new trainings
    would.

    Args:
        trials: One value per trial, at least two, [j].
        covariance: Of two trials' values over samples of test patients; below 0 it counts as 0.

    Returns:
        Lower and upper bound of the 95 % interval, and the two-sided p value.

    Raises:
        ValueError: There are fewer than two trials.
    """
    from scipy import special

    count = len(trials)
    if count < 2:
        raise ValueError("An interval over trials needs at least two.")
    value, own = float(np.mean(trials)), float(np.var(trials, ddof=1)) / count
    variance = own + max(covariance, 0.0)
    if variance == 0.0:
        return value, value, float(value == 0.0)
    freedom = min(variance**2 * (count - 1) / own**2, MOST_FREEDOM) if own > 0.0 else MOST_FREEDOM
    error = float(np.sqrt(variance))
    half = float(special.stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return value - half, value + half, float(2 * special.stdtr(freedom, -abs(value) / error))

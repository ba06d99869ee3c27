"""How often intervals hold the truth where they are hard to give: few positive patients, and a study's few trainings.

Few patients: the bootstrap's interval of the area under the curve, also with fewer patients than it is given for.
Studies: three classifiers are "trained", each a draw from all that the training could have given, and judged on the
same patients; trainings vary from not at all to far more than patients do. The truth is the mean area over all
trainings and all patients. Some four minutes of one core.

    python bench/interval_coverage.py
"""

import argparse

import numpy as np
from machine import report
from scipy import stats

from ccella.metrics import intervals
from ccella.study.uncertainty import estimate

TRIALS, POSITIVES, NEGATIVES = 3, 60, 140
SEPARATION = 1.2
# Share of a patient's noise that all classifiers have in common.
COMMON = 0.5
# Standard deviation of a training's separation; the classes' scores have 1.
SPREADS = (0.0, 0.1, 0.3, 1.0)
FEW = (2, 5, 8, 12)
GRID = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)


def draw_areas(rng: np.random.Generator, spread: float, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Areas of the trials, [j], and on resamples of the patients within their class, [j, m]."""
    classes = (POSITIVES, NEGATIVES)
    shared = [rng.normal(size=n) for n in classes]
    counts = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in classes]
    areas, draws = [], []
    for _ in range(TRIALS):
        shift = SEPARATION + spread * rng.normal()
        high, low = (np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * rng.normal(size=len(common)) for common in shared)
        above = (high[:, None] + shift > low[None, :]).astype(float)
        areas.append(above.mean())
        draws.append(np.einsum("mp,pn,mn->m", counts[0], above, counts[1], optimize=True))
    return np.array(areas), np.array(draws)


def study_coverage(spread: float, studies: int, resamples: int) -> tuple[float, float]:
    """Share of simulated studies whose interval holds the truth, and of those whose interval over patients does."""
    truth = float(stats.norm.cdf((SEPARATION + spread * GRID) / np.sqrt(2)).mean())
    both = patients_alone = 0
    for number in range(studies):
        areas, draws = draw_areas(np.random.default_rng(number), spread, resamples)
        low, high = np.quantile(draws.mean(axis=0), (0.025, 0.975))
        found = estimate(list(areas), draws, (float(low), float(high)), limits=(0, 1), smallest=POSITIVES)
        assert found.interval is not None
        both += found.interval[0] <= truth <= found.interval[1]
        patients_alone += low <= truth <= high
    return both / studies, patients_alone / studies


def few_coverage(positives: int, datasets: int) -> str:
    """Share of simulated sets of 200 patients, few of them positive, whose interval of the area holds the truth."""
    labels = np.arange(200) < positives
    truth = float(stats.norm.cdf(SEPARATION / np.sqrt(2)))
    hits = 0
    for number in range(datasets):
        scores = np.random.default_rng(number).normal(size=200) + SEPARATION * labels
        found = intervals.figure_intervals(
            labels.astype(int), stats.norm.cdf(scores), [str(i) for i in range(200)], repeats=1000, seed=number
        )["auc"]
        hits += found.bounds is not None and found.bounds[0] <= truth <= found.bounds[1]
    return f"{hits / datasets:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=300)
    options = parser.parse_args()
    rows: list[tuple[str, object]] = []
    due = intervals.FEWEST_PATIENTS
    # What they would be if they were given: below the least number there are none.
    intervals.FEWEST_PATIENTS = 1
    for positives in FEW:
        note = "" if positives >= due else ", which is not given"
        name = f"{options.datasets} sets of 200 patients, {positives} positive{note}"
        rows.append((f"interval of AUC covers, {name}", few_coverage(positives, options.datasets)))
    for spread in SPREADS:
        both, patients_alone = study_coverage(spread, options.studies, options.resamples)
        name = f"{options.studies} studies, trainings' separation {SEPARATION:g} +- {spread:g}"
        rows.append((f"interval over trainings and patients covers, {name}", f"{both:.1%}"))
        rows.append((f"interval over patients alone covers, {name}", f"{patients_alone:.1%}"))
    report("interval_coverage", rows)


if __name__ == "__main__":
    main()

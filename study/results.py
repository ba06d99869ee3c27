"""What a study found: figures of every run, means with intervals, and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from ..imaging.errors import InputError
from ..metrics.classification import classification_figures, holm, resample_patients
from ..pipeline.predictions import check_same_exams, read_predictions
from .definition import Study
from .plan import Run, plan_runs
from .running import PREDICTIONS

FIGURES = ("average_precision", "auc")
Point = tuple[str, str, float]


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of a study that are done.

    Attributes:
        study: The study.
        planned: Number of runs of the whole study.
        figures: Figures of each run on institution 2's test exams.
        exams: Test exams.
        positives: Those of class 1.
        resampled: Per FIGURES, each run's value on every resample of the test patients, the same for all runs.
    """

    study: Study
    planned: int
    figures: Mapping[Run, Mapping[str, float | None]]
    exams: int
    positives: int
    resampled: Mapping[str, Mapping[Run, np.ndarray]] = field(repr=False)

    def points(self) -> list[Point]:
        """Sequence set, pretraining and share of every point that has a run, in the order of the study."""
        return list(dict.fromkeys((run.sequences, run.pretraining, run.fraction) for run in self.figures))

    def runs(self, point: Point) -> list[Run]:
        """The trials of a point."""
        return [run for run in self.figures if (run.sequences, run.pretraining, run.fraction) == point]

    def values(self, point: Point, figure: str) -> list[float]:
        """A figure of each trial of a point."""
        return [float(self.figures[run][figure] or 0.0) for run in self.runs(point)]

    def draws(self, point: Point, figure: str) -> np.ndarray:
        """The mean over a point's trials on every resample."""
        return np.mean([self.resampled[figure][run] for run in self.runs(point)], axis=0)


def collect_results(study: Study, out: Path) -> Results:
    """Reads the predictions of a study folder.

    Raises:
        InputError: No run is done, or predictions are of other exams, incomplete or no numbers.
    """
    planned = list(plan_runs(study))
    done = [run for run in planned if (run.folder(out) / PREDICTIONS).is_file()]
    if not done:
        raise InputError(f"{out} has no finished run.", f"Run the study first: ccella study run {study.path}.")
    tables = {run: read_predictions(run.folder(out) / PREDICTIONS) for run in done}
    first = tables[done[0]]
    for table in tables.values():
        check_same_exams(first, table)
    figures = {run: classification_figures(table.labels, table.probabilities) for run, table in tables.items()}
    draws: dict[str, dict[Run, list[float]]] = {name: {run: [] for run in done} for name in FIGURES}
    for chosen in resample_patients(first.labels, first.patients, study.bootstrap, study.seed):
        for run, table in tables.items():
            found = classification_figures(first.labels[chosen], table.probabilities[chosen])
            for name in FIGURES:
                draws[name][run].append(float(found[name] or 0.0))
    resampled = {name: {run: np.array(values) for run, values in runs.items()} for name, runs in draws.items()}
    return Results(study, len(planned), figures, len(first.ids), int(first.labels.sum()), resampled)


@dataclass(frozen=True)
class Difference:
    """One point's mean minus another's.

    Attributes:
        figure: Of FIGURES.
        minuend: The point it is of.
        subtrahend: The point it is compared with.
        value: Difference of the means over the trials.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile.
        p_value: Two-sided, from the resamples.
        p_holm: Corrected over the shares of one comparison.
    """

    figure: str
    minuend: Point
    subtrahend: Point
    value: float
    low: float
    high: float
    p_value: float
    p_holm: float


def pretraining_differences(results: Results) -> Iterator[Difference]:
    """Synthetic minus real, and either minus none, at every share, for each sequence set."""
    points = set(results.points())
    order = ("synthetic", "real", "none")
    for figure in FIGURES:
        for sequences in results.study.sequences:
            for one, other in combinations(order, 2):
                pairs = [
                    ((sequences, one, point[2]), (sequences, other, point[2]))
                    for point in results.points()
                    if point[:2] == (sequences, one) and (sequences, other, point[2]) in points
                ]
                yield from _compare(results, figure, pairs)


def sequence_differences(results: Results) -> Iterator[Difference]:
    """Each later sequence set of the study file minus the first, for each pretraining, at every share."""
    names = list(results.study.sequences)
    points = set(results.points())
    for figure in FIGURES:
        for name in names[1:]:
            for pretraining in results.study.pretraining:
                pairs = [
                    (point, (names[0], pretraining, point[2]))
                    for point in results.points()
                    if point[:2] == (name, pretraining) and (names[0], pretraining, point[2]) in points
                ]
                yield from _compare(results, figure, pairs)


def _compare(results: Results, figure: str, pairs: Sequence[tuple[Point, Point]]) -> Iterator[Difference]:
    draws = [results.draws(one, figure) - results.draws(other, figure) for one, other in pairs]
    p_values = {str(number): two_sided(values) for number, values in enumerate(draws)}
    corrected = holm(p_values)
    for number, (one, other) in enumerate(pairs):
        value = float(np.mean(results.values(one, figure)) - np.mean(results.values(other, figure)))
        low, high = (float(bound) for bound in np.percentile(draws[number], [2.5, 97.5]))
        name = str(number)
        yield Difference(figure, one, other, value, low, high, p_values[name], corrected[name])


def two_sided(draws: np.ndarray) -> float:
    """Two-sided p value of a difference of 0 from its bootstrap distribution, never below 2 / (resamples + 1)."""
    below = (int((draws <= 0).sum()) + 1) / (len(draws) + 1)
    above = (int((draws >= 0).sum()) + 1) / (len(draws) + 1)
    return min(1.0, 2.0 * min(below, above))

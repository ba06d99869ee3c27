"""What a study found: figures of every run, means with intervals, and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ..imaging.errors import InputError
from ..metrics.bootstrap import bootstrap_intervals, draw_weights
from ..metrics.classification import FIGURES as ALL_FIGURES
from ..metrics.classification import classification_figures, holm, weighted_figures
from ..pipeline.predictions import Predictions, check_same_exams, read_predictions
from .definition import Study
from .plan import Run, plan_runs
from .running import PREDICTIONS

FIGURES = ("average_precision", "auc")
# Sequence set, pretraining, share.
Point = tuple[str, str, float]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """One point's mean minus another's.

    Attributes:
        figure: Of FIGURES.
        minuend: The point it is of.
        subtrahend: The point it is compared with.
        value: Difference of the means over the trials.
        low: Lower bound of the 95 % interval over the test patients, both points read on the same resamples.
        high: Upper bound.
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


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of a study that are done.

    Attributes:
        study: The study.
        planned: Number of runs of the whole study.
        figures: Figures of each run on institution 2's test exams.
        exams: Test exams.
        positives: Those of class 1.
        intervals: 95 % interval of each point's mean over its trials, by point and figure.
        pretraining: Synthetic minus real, and either minus none, at every share.
        sequences: Each later sequence set of the study file minus the first, at every share.
    """

    study: Study
    planned: int
    figures: Mapping[Run, Mapping[str, float | None]]
    exams: int
    positives: int
    intervals: Mapping[tuple[Point, str], Interval]
    pretraining: Sequence[Difference]
    sequences: Sequence[Difference]

    def points(self) -> list[Point]:
        """Every point that has a run, in the order of the study."""
        return list_points(self.figures)

    def values(self, point: Point, figure: str) -> list[float]:
        """A figure of each trial of a point."""
        return [float(found[figure] or 0.0) for run, found in self.figures.items() if point_of(run) == point]


def point_of(run: Run) -> Point:
    """The point of which a run is a trial."""
    return run.sequences, run.pretraining, run.fraction


def list_points(runs: Mapping[Run, object]) -> list[Point]:
    """The points of runs, each once, in their order."""
    return list(dict.fromkeys(map(point_of, runs)))


def collect_results(study: Study, out: Path) -> Results:
    """Reads the predictions of a study folder and computes what they show.

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
    points = list_points(tables)
    families = [*_pretraining_pairs(study, points), *_sequence_pairs(study, points)]
    intervals, differences = _Comparison(study, tables, families).compute()
    within = [each for each in differences if each.minuend[0] == each.subtrahend[0]]
    across = [each for each in differences if each.minuend[0] != each.subtrahend[0]]
    figures = {run: classification_figures(table.labels, table.probabilities) for run, table in tables.items()}
    return Results(study, len(planned), figures, len(first.ids), int(first.labels.sum()), intervals, within, across)


Family = list[tuple[Point, Point]]


def _pretraining_pairs(study: Study, points: Sequence[Point]) -> Iterator[Family]:
    for sequences in study.sequences:
        for one, other in combinations(("synthetic", "real", "none"), 2):
            pairs = [((sequences, one, share), (sequences, other, share)) for share in _shares(points)]
            yield [pair for pair in pairs if set(pair) <= set(points)]


def _sequence_pairs(study: Study, points: Sequence[Point]) -> Iterator[Family]:
    base, *others = study.sequences
    for name in others:
        for pretraining in study.pretraining:
            pairs = [((name, pretraining, share), (base, pretraining, share)) for share in _shares(points)]
            yield [pair for pair in pairs if set(pair) <= set(points)]


def _shares(points: Sequence[Point]) -> list[float]:
    return sorted({share for _, _, share in points})


class _Comparison:
    """Means of all points and differences of pairs on the same resamples of the test patients."""

    def __init__(self, study: Study, tables: Mapping[Run, Predictions], families: Sequence[Family]) -> None:
        self._study, self._tables, self._families = study, tables, families
        self._points = list_points(tables)
        self._pairs = [pair for family in families for pair in family]
        self._any = next(iter(tables.values()))

    def compute(self) -> tuple[dict[tuple[Point, str], Interval], list[Difference]]:
        labels, patients, study = self._any.labels, self._any.patients, self._study
        values = self._columns(np.ones((1, len(labels))))[0]
        found = bootstrap_intervals(self._columns, patients, labels, repeats=study.bootstrap, seed=study.seed)
        # Average precision and area are defined on every resample: each has both classes.
        bounds = [interval for interval in found if interval is not None]
        weights = draw_weights(patients, labels, repeats=study.bootstrap, seed=study.seed)
        draws = np.concatenate([self._columns(block) for block in weights])
        width = len(FIGURES)
        keys = [(point, figure) for point in self._points for figure in FIGURES]
        intervals = dict(zip(keys, bounds, strict=False))
        differences = []
        column = len(keys)
        for family in self._families:
            for offset, figure in enumerate(FIGURES):
                columns = [column + width * number + offset for number in range(len(family))]
                p_values = [two_sided(draws[:, each]) for each in columns]
                corrected = holm({str(number): p for number, p in enumerate(p_values)})
                for number, (pair, each) in enumerate(zip(family, columns, strict=True)):
                    numbers = (float(values[each]), *bounds[each], p_values[number], corrected[str(number)])
                    differences.append(Difference(figure, *pair, *numbers))
            column += width * len(family)
        return intervals, differences

    def _columns(self, weights: np.ndarray) -> np.ndarray:
        """Both figures of every point, then of every pair's difference: [m, n] to [m, columns]."""
        chosen = [ALL_FIGURES.index(name) for name in FIGURES]
        trials: dict[Point, list[np.ndarray]] = {}
        for run, table in self._tables.items():
            figures = weighted_figures(table.labels, table.probabilities, weights)[:, chosen]
            trials.setdefault(point_of(run), []).append(figures)
        means = {point: np.mean(each, axis=0) for point, each in trials.items()}
        parts = [means[point] for point in self._points] + [means[one] - means[other] for one, other in self._pairs]
        return np.concatenate(parts, axis=1)


def two_sided(draws: np.ndarray) -> float:
    """Two-sided p value of a difference of 0 from its bootstrap distribution, never below 2 / (resamples + 1)."""
    below = (int((draws <= 0).sum()) + 1) / (len(draws) + 1)
    above = (int((draws >= 0).sum()) + 1) / (len(draws) + 1)
    return min(1.0, 2.0 * min(below, above))

"""What a study found: figures of every run, means with intervals, and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np

from ..evaluation.prediction_sets import Predictions, check_same_exams, read_predictions
from ..imaging.errors import InputError
from ..metrics.bootstrap import bootstrap_intervals, draw_weights
from ..metrics.classification import FIGURES as ALL_FIGURES
from ..metrics.classification import classification_figures, holm, weighted_figures
from .definition import Study
from .plan import Run, plan_runs
from .running import PREDICTIONS
from .uncertainty import Estimate, estimate

FIGURES = ("average_precision", "auc")
# Sequence set, pretraining, share.
Point = tuple[str, str, float]


@dataclass(frozen=True)
class Difference:
    """One point minus another, trial by trial.

    Attributes:
        figure: Of FIGURES.
        minuend: The point it is of.
        subtrahend: The point it is compared with.
        estimate: Over the trials that both points have, both read on the same resamples of the test patients.
        p_holm: The p value corrected over the shares of one comparison; None where there is no p value.
    """

    figure: str
    minuend: Point
    subtrahend: Point
    estimate: Estimate
    p_holm: float | None


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of a study that are done.

    Attributes:
        study: The study.
        planned: Number of runs of the whole study.
        figures: Figures of each run on institution 2's test exams.
        exams: Test exams.
        positives: Those of class 1.
        estimates: Of each point and figure.
        pretraining: Synthetic minus real, and either minus none, at every share.
        sequences: Each later sequence set of the study file minus the first, at every share.
    """

    study: Study
    planned: int
    figures: Mapping[Run, Mapping[str, float | None]]
    exams: int
    positives: int
    estimates: Mapping[tuple[Point, str], Estimate]
    pretraining: Sequence[Difference]
    sequences: Sequence[Difference]

    def points(self) -> list[Point]:
        """Every point that has a run, in the order of the study."""
        return list_points(self.figures)


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
    estimates, differences = _Comparison(study, tables, families).compute()
    within = [each for each in differences if each.minuend[0] == each.subtrahend[0]]
    across = [each for each in differences if each.minuend[0] != each.subtrahend[0]]
    figures = {run: classification_figures(table.labels, table.probabilities) for run, table in tables.items()}
    return Results(study, len(planned), figures, len(first.ids), int(first.labels.sum()), estimates, within, across)


Pair = tuple[Point, Point]
Family = list[Pair]


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
    """Points and differences of pairs, on the same resamples of the test patients."""

    def __init__(self, study: Study, tables: Mapping[Run, Predictions], families: Sequence[Family]) -> None:
        self._study, self._tables = study, tables
        self._read: dict[bytes, dict[Run, np.ndarray]] = {}
        self._trials: dict[Point, dict[int, Run]] = {}
        for run in tables:
            self._trials.setdefault(point_of(run), {})[run.trial] = run
        # Points that share no trial yet, in a study that is half done, are not compared.
        self._families = [[pair for pair in family if self._shared(pair)] for family in families]
        self._pairs = [pair for family in self._families for pair in family]

    def compute(self) -> tuple[dict[tuple[Point, str], Estimate], list[Difference]]:
        first, study = next(iter(self._tables.values())), self._study
        labels, patients = first.labels, first.patients
        repeats, seed = study.bootstrap, study.seed
        found = bootstrap_intervals(self._means, patients, labels, repeats=repeats, seed=seed)
        intervals = dict(zip(self._keys(), found, strict=True))
        blocks = [self._by_run(block) for block in draw_weights(patients, labels, repeats=repeats, seed=seed)]
        draws = {run: np.concatenate([block[run] for block in blocks]) for run in self._tables}
        values = {run: each[0] for run, each in self._by_run(np.ones((1, len(labels)))).items()}
        positive = {name for name, label in zip(patients, labels, strict=True) if label == 1}
        smallest = min(len(positive), len(set(patients) - positive))
        estimates = {}
        for point, figure in product(self._trials, FIGURES):
            runs, place = list(self._trials[point].values()), FIGURES.index(figure)
            estimates[point, figure] = estimate(
                [float(values[run][place]) for run in runs],
                np.stack([draws[run][:, place] for run in runs]),
                intervals[point, figure],
                limits=(0.0, 1.0),
                smallest=smallest,
            )
        differences = []
        for family, figure in product(self._families, FIGURES):
            place = FIGURES.index(figure)
            compared = {}
            for pair in family:
                both = self._shared(pair)
                compared[pair] = estimate(
                    [float(values[one][place] - values[other][place]) for one, other in both],
                    np.stack([draws[one][:, place] - draws[other][:, place] for one, other in both]),
                    intervals[pair, figure],
                    limits=(-1.0, 1.0),
                    smallest=smallest,
                )
            differences += _correct(figure, compared)
        return estimates, differences

    def _shared(self, pair: Pair) -> list[tuple[Run, Run]]:
        """The runs of two points with the same trial's number, and so the same seed."""
        one, other = (self._trials[point] for point in pair)
        return [(run, other[trial]) for trial, run in one.items() if trial in other]

    def _keys(self) -> list[tuple[Point | Pair, str]]:
        """What the columns of `_means` are of."""
        return list(product((*self._trials, *self._pairs), FIGURES))

    def _by_run(self, weights: np.ndarray) -> dict[Run, np.ndarray]:
        """Both figures of every run: [m, n] to [m, figures]."""
        chosen = [ALL_FIGURES.index(name) for name in FIGURES]
        # The intervals over patients and the covariances of trials ask for the same resamples.
        key = weights.tobytes()
        if key not in self._read:
            self._read[key] = {
                run: weighted_figures(table.labels, table.probabilities, weights)[:, chosen]
                for run, table in self._tables.items()
            }
        return self._read[key]

    def _means(self, weights: np.ndarray) -> np.ndarray:
        """Both figures of every point, then of every pair's difference, over the trials: [m, n] to [m, columns]."""
        runs = self._by_run(weights)
        parts = [np.mean([runs[run] for run in trials.values()], axis=0) for trials in self._trials.values()]
        pairs = [
            np.mean([runs[one] - runs[other] for one, other in self._shared(pair)], axis=0) for pair in self._pairs
        ]
        return np.concatenate([*parts, *pairs], axis=1)


def _correct(figure: str, compared: Mapping[Pair, Estimate]) -> list[Difference]:
    """The differences of one comparison with their p values corrected for each other."""
    names = {str(number): pair for number, pair in enumerate(compared)}
    p_values = {name: compared[pair].p_value for name, pair in names.items()}
    corrected = holm({name: p for name, p in p_values.items() if p is not None})
    return [Difference(figure, *pair, compared[pair], corrected.get(name)) for name, pair in names.items()]

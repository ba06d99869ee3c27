"""`evaluate predictions`: the figures of one classifier, and whether another differs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.classification import FIGURES, classification_figures
from ..metrics.delong import compare_areas
from ..metrics.intervals import FEWEST_PATIENTS, Interval, difference_intervals, figure_intervals
from ..pipeline.provenance import STATISTICS, versions
from ..zoo.loading import sha256_file
from .images import SCHEMA
from .prediction_sets import Predictions, check_same_exams, read_labels, read_predictions, share_patients

REPEATS = 2000
NO_PATIENTS = (
    "There is no patient_id, so each exam counts as a patient: intervals are too narrow where patients repeat."
)


def evaluate_predictions(
    path: Path,
    other: Path | None = None,
    *,
    labels: Path | None = None,
    threshold: float = 0.5,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[dict[str, Any], list[Predictions]]:
    """Figures of a table of predictions with intervals, and of a second one compared with it on the same exams.

    Args:
        path: See `predictions.read_predictions`.
        other: A second table of the same exams.
        labels: Table with the labels, where the predictions lack them.
        threshold: Exams at or above it are called positive.
        repeats: Resamples of the bootstrap.
        seed: Its seed.

    Returns:
        The result, JSON-able, and the predictions.

    Raises:
        InputError: A table cannot be used, or the two are of different exams.
    """
    known = read_labels(labels) if labels is not None else None
    tables = [read_predictions(source, known) for source in (path, other) if source is not None]
    if len(tables) == 2:
        check_same_exams(tables[0], tables[1])
        tables = list(share_patients(tables[0], tables[1]))
    unit = "patient" if tables[0].by_patient else "exam"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "predictions",
        "threshold": threshold,
        "bootstrap": {
            "repeats": repeats,
            "method": "BCa, widened by Student's t",
            "unit": unit,
            "strata": f"{unit}s with and without a positive exam" if tables[0].by_patient else "exams by class",
            "fewest": FEWEST_PATIENTS,
            "edges": "Clopper-Pearson",
        },
        "seed": seed,
        "versions": versions(STATISTICS),
        "predictions": [_describe(table, threshold, repeats, seed) for table in tables],
    }
    if known is not None:
        document["labelled_exams_without_prediction"] = len(set(known) - set(tables[0].ids))
    if len(tables) == 2:
        document["comparison"] = _compare(tables[0], tables[1], threshold, repeats, seed)
    document["notes"] = [*([] if tables[0].by_patient else [NO_PATIENTS]), *_missing(document)]
    return document, tables


def _describe(table: Predictions, threshold: float, repeats: int, seed: int) -> dict[str, Any]:
    figures = classification_figures(table.labels, table.probabilities, threshold=threshold)
    try:
        intervals = figure_intervals(
            table.labels, table.probabilities, table.patients, threshold=threshold, repeats=repeats, seed=seed
        )
    except ValueError as error:
        raise InputError(f"{table.source}: {error}", "Intervals need patients of both kinds.") from error
    return {
        "source": str(table.source),
        "sha256": sha256_file(table.source),
        "exams": len(table.ids),
        "patients": len(set(table.patients)) if table.by_patient else None,
        "positives": int(table.labels.sum()),
        "figures": {name: {"value": figures[name], **_entry(intervals[name])} for name in FIGURES},
    }


def _missing(document: dict[str, Any]) -> list[str]:
    """Sentences on the figures that have no interval, and on a test that could not be made."""
    groups = [(table["source"], table["figures"]) for table in document["predictions"]]
    comparison = document.get("comparison")
    if comparison is not None:
        groups.append(("difference", comparison["differences"]))
    notes = [
        f"{source}: no interval for {name.replace('_', ' ')}: {figure['reason']}."
        for source, figures in groups
        for name, figure in figures.items()
        if "reason" in figure
    ]
    reason = comparison["delong"]["reason"] if comparison is not None else None
    return [*notes, f"DeLong: no test: {reason}."] if reason else notes


def _entry(interval: Interval) -> dict[str, Any]:
    found = {"interval": None if interval.bounds is None else list(interval.bounds), "method": interval.method}
    return found | ({"reason": interval.reason} if interval.reason else {})


def _compare(first: Predictions, second: Predictions, threshold: float, repeats: int, seed: int) -> dict[str, Any]:
    if min(int(first.labels.sum()), int((1 - first.labels).sum())) < 2:
        raise InputError(f"{first.source} has fewer than two exams of a class.", "DeLong's test needs two of each.")
    comparison = compare_areas(first.labels, first.probabilities, second.probabilities)
    differences = difference_intervals(
        first.labels, first.probabilities, second.probabilities, first.patients,
        threshold=threshold, repeats=repeats, seed=seed,
    )  # fmt: skip
    values = [
        classification_figures(table.labels, table.probabilities, threshold=threshold) for table in (first, second)
    ]
    repeated = len(first.ids) - len(set(first.patients)) if first.by_patient else None
    return {
        "delong": asdict(comparison) | {"unit": "exam", "repeated_patients": repeated},
        "differences": {
            name: {"value": _difference(values[0][name], values[1][name]), **_entry(differences[name])}
            for name in FIGURES
        },
        "identical": bool(np.array_equal(first.probabilities, second.probabilities)),
    }


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second

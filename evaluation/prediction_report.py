"""The page of `evaluate predictions`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.classification import precision_recall_points, roc_points
from .charts import Interval, interval_chart, line_chart
from .page import figure, heading, paragraph, side_by_side, table, write_page
from .prediction_sets import Predictions
from .tables import number, prediction_rows

UNIT = (0.0, 1.0)
BINS = 20


def write_prediction_report(path: Path, document: Mapping[str, Any], tables: Sequence[Predictions]) -> None:
    """Writes the page: curves, distributions, figures with intervals, the comparison, the JSON.

    Args:
        path: The HTML file.
        document: The result of `evaluate_predictions`.
        tables: The predictions it is of.

    Raises:
        OSError: The file cannot be written.
    """
    first = document["predictions"][0]
    patients = "" if first["patients"] is None else f" of {first['patients']} patients"
    parts = [
        paragraph(
            f"{first['exams']} exams{patients}, {first['positives']} positive; called positive from "
            f"{document['threshold']:g} on. Intervals: 95 %, {document['bootstrap']['repeats']} resamples by "
            f"{document['bootstrap']['unit']}; exact where a proportion is 0 or 1."
        ),
        heading("Curves"),
        side_by_side(_roc(tables), _precision_recall(tables)),
        heading("Figures"),
        table(("predictions", "figure", "value", "low", "high", "p"), prediction_rows(document)),
        *(paragraph(note, dim=True) for note in document["notes"]),
        side_by_side(*(_intervals(entry, f"{entry['source']}") for entry in document["predictions"])),
        heading("Probabilities"),
        side_by_side(*(_probabilities(entry) for entry in tables)),
    ]
    if "comparison" in document:
        parts.append(paragraph(_delong(document["comparison"]["delong"])))
    write_page(path, "Predictions", parts, document)


def _delong(result: Mapping[str, Any]) -> str:
    if result["reason"]:
        return f"DeLong: difference of the areas {number(result['difference'])}, without a test."
    return (
        f"DeLong: difference of the areas {number(result['difference'])}, standard error "
        f"{number(result['standard_error'])}, p = {number(result['p_value'])}."
    )


def _names(tables: Sequence[Predictions]) -> list[str]:
    names = [entry.source.name for entry in tables]
    return names if len(set(names)) == len(names) else [str(entry.source) for entry in tables]


def _roc(tables: Sequence[Predictions]) -> str:
    lines = {}
    for name, entry in zip(_names(tables), tables, strict=True):
        false, true = roc_points(entry.labels, entry.probabilities)
        lines[name] = list(zip(false.tolist(), true.tolist(), strict=True))
    chart = line_chart(lines, x_label="1 - specificity", y_label="sensitivity", x_range=UNIT, y_range=UNIT)
    return figure(chart, "Receiver operating characteristic")


def _precision_recall(tables: Sequence[Predictions]) -> str:
    lines = {}
    for name, entry in zip(_names(tables), tables, strict=True):
        recall, precision = precision_recall_points(entry.labels, entry.probabilities)
        lines[name] = list(zip(recall.tolist(), precision.tolist(), strict=True))
    chart = line_chart(lines, x_label="recall", y_label="precision", x_range=UNIT, y_range=UNIT)
    return figure(chart, "Precision and recall")


def _intervals(entry: Mapping[str, Any], caption: str) -> str:
    rows = [
        Interval(name.replace("_", " "), value["value"], *value["interval"])
        for name, value in entry["figures"].items()
        if value["value"] is not None and value["interval"] is not None
    ]
    return figure(interval_chart(rows, x_label="value", x_range=UNIT), caption)


def _probabilities(entry: Predictions) -> str:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    lines = {}
    for name, label in (("positive exams", 1), ("negative exams", 0)):
        values = entry.probabilities[entry.labels == label]
        shares = np.histogram(values, edges)[0] / len(values)
        lines[name] = [((a + b) / 2, float(s)) for a, b, s in zip(edges[:-1], edges[1:], shares, strict=True)]
    chart = line_chart(lines, x_label="probability of class 1", y_label="share", x_range=UNIT)
    return figure(chart, entry.source.name)

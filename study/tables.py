"""The tables of a study, as rows and as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..imaging.atomic import write_text
from ..metrics.classification import FIGURES as ALL_FIGURES
from .partitions import fraction_name
from .results import FIGURES, Difference, Results

Row = tuple[object, ...]
SUMMARY = ("sequences", "pretraining", "percent", "figure", "trials", "mean", "sd", "low", "high")
DIFFERENCES = ("figure", "sequences", "pretraining", "minus", "percent", "difference", "low", "high", "p", "p_holm")


def write_tables(folder: Path, results: Results) -> dict[str, Path]:
    """Writes runs.csv, summary.csv, pretraining.csv and sequences.csv; gives their paths by name."""
    tables: dict[str, tuple[Sequence[str], Iterable[Row]]] = {
        "runs": (("sequences", "pretraining", "percent", "trial", *ALL_FIGURES), run_rows(results)),
        "summary": (SUMMARY, summary_rows(results)),
        "pretraining": (DIFFERENCES, difference_rows(results.pretraining)),
        "sequences": (DIFFERENCES, difference_rows(results.sequences)),
    }
    paths = {}
    for name, (columns, rows) in tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        paths[name] = folder / f"{name}.csv"
        write_text(paths[name], text.getvalue())
    return paths


def run_rows(results: Results) -> list[Row]:
    """Every run with its figures."""
    rows: list[Row] = []
    for run, found in results.figures.items():
        figures = (_short(found[name]) for name in ALL_FIGURES)
        rows.append((run.sequences, run.pretraining, fraction_name(run.fraction), run.trial, *figures))
    return rows


def summary_rows(results: Results) -> list[Row]:
    """Every point: mean and standard deviation over its trials, 95 % interval over the test patients."""
    rows: list[Row] = []
    for point in results.points():
        for figure in FIGURES:
            values = results.values(point, figure)
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            low, high = results.intervals[point, figure]
            rows.append(
                (point[0], point[1], fraction_name(point[2]), figure, len(values), _short(float(np.mean(values))),
                 _short(spread), _short(low), _short(high))
            )  # fmt: skip
    return rows


def difference_rows(differences: Iterable[Difference]) -> list[Row]:
    """Differences with their intervals; `minus` names what was subtracted."""
    return [
        (
            each.figure, each.minuend[0], each.minuend[1],
            each.subtrahend[1] if each.subtrahend[0] == each.minuend[0] else each.subtrahend[0],
            fraction_name(each.minuend[2]), *map(_short, (each.value, each.low, each.high, each.p_value, each.p_holm)),
        )
        for each in differences
    ]  # fmt: skip


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

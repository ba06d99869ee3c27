"""The tables of a study, as rows and as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..imaging.atomic import write_text
from ..metrics.classification import FIGURES as ALL_FIGURES
from .partitions import fraction_name
from .results import Difference, Results
from .uncertainty import Estimate, Interval

Row = tuple[object, ...]
SUMMARY = (
    "sequences", "pretraining", "percent", "figure", "trials", "mean", "sd", "min", "max", "low", "high",
    "patients_low", "patients_high",
)  # fmt: skip
DIFFERENCES = (
    "figure", "sequences", "pretraining", "minus", "percent", "trials", "difference", "sd", "min", "max", "low", "high",
    "p", "p_holm", "patients_low", "patients_high",
)  # fmt: skip
LEAST_P = 0.001


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
    """Every point: over its trials mean, SD and range; 95 % intervals over trials and patients, and patients alone."""
    return [
        (
            *point[:2],
            fraction_name(point[2]),
            figure,
            *_spread(found),
            *_bounds(found.interval),
            *_bounds(found.patients),
        )
        for (point, figure), found in results.estimates.items()
    ]  # fmt: skip


def difference_rows(differences: Iterable[Difference]) -> list[Row]:
    """Differences trial by trial, with the same columns and p values; `minus` names what was subtracted."""
    return [
        (
            each.figure, each.minuend[0], each.minuend[1],
            each.subtrahend[1] if each.subtrahend[0] == each.minuend[0] else each.subtrahend[0],
            fraction_name(each.minuend[2]), *_spread(each.estimate), *_bounds(each.estimate.interval),
            *map(_probability, (each.estimate.p_value, each.p_holm)), *_bounds(each.estimate.patients),
        )
        for each in differences
    ]  # fmt: skip


def p_text(value: float | None) -> str:
    """A p value for people: three digits, and no more than that of very small ones; empty where there is none."""
    return "" if value is None else f"<{LEAST_P}" if value < LEAST_P else f"{value:.3f}"


def _spread(found: Estimate) -> Row:
    numbers = (found.value, found.sd, min(found.trials), max(found.trials))
    return len(found.trials), *map(_short, numbers)


def _bounds(interval: Interval | None) -> Row:
    return ("", "") if interval is None else tuple(map(_short, interval))


def _probability(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

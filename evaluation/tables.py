"""Results of evaluations as rows for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from .fidelity import OVERLAP

DIGITS = 4
Row = tuple[object, ...]


def number(value: float | None) -> str | None:
    """A figure in four significant digits; None stays None."""
    return None if value is None else f"{value:.{DIGITS}g}"


def image_rows(document: Mapping[str, Any]) -> list[Row]:
    """Rows of `evaluate images`: sequence, extractor, view, figure, n, d, value, low, high, floor.

    `d` is the number of features, on which FID depends as it does on n. The bounds of KID are the spread of its
    subsets. FID and the overlap figures depend on n, so that value, bounds and floor of these are those of halves,
    except for the value, which is that of all exams.
    """
    rows: list[Row] = []
    for sequence, results in document["sequences"].items():
        for extractor, views in results["fidelity"].items():
            for view, figures in views.items():
                for name in ("kid", "fid", *OVERLAP):
                    if name in figures:
                        rows.extend(_figure_rows((sequence, extractor, view), name, figures))
        rows.extend(_diversity_rows(sequence, results["diversity"]))
        for figure, n, *bounds in _memorisation_rows(results["memorisation"]):
            rows.append((sequence, None, None, figure, n, None, *bounds))
    return rows


def _figure_rows(where: Row, name: str, figures: Mapping[str, Any]) -> list[Row]:
    figure = figures[name]
    low, high = map(number, figure["interval"])
    if name == "kid":
        size = figures["n"], figures["d"]
        return [(*where, name, *size, number(figure["value"]), low, high, number(figure["floor"]))]
    # One row per number of samples: the floor is known for halves only.
    return [
        (*where, name, figures["n"], figures["d"], number(figure["value"]), None, None, None),
        (*where, name, figures["half_n"], figures["d"], number(figure["half"]), low, high, number(figure["floor"])),
    ]


def _diversity_rows(sequence: str, result: Mapping[str, Any]) -> list[Row]:
    if result["synthetic"] is None:
        return []
    synthetic = result["synthetic"]
    bounds: Sequence[float | None] = synthetic["interval"] or (None, None)
    real = number(result["real"]["mean"])
    figures = number(synthetic["mean"]), *map(number, bounds), real
    return [(sequence, None, None, "ms-ssim", synthetic["pairs"], None, *figures)]


def _memorisation_rows(result: Mapping[str, Any]) -> list[Row]:
    synthetic, independent = result["synthetic"], result["independent"]
    row = (
        "max correlation, median", synthetic["n"], number(synthetic["median"]),
        number(synthetic["p5"]), number(synthetic["p95"]), number(independent["median"]),
    )  # fmt: skip
    return [row, ("suspected copies", synthetic["n"], len(result["flagged"]), None, None, 0)]


def audit_rows(document: Mapping[str, Any]) -> list[Row]:
    """Rows of `evaluate latents`: figure, n, value, low, high, independent."""
    return _memorisation_rows(document["memorisation"])


def prediction_rows(document: Mapping[str, Any]) -> list[Row]:
    """Rows of `evaluate predictions`: table, figure, value, low, high, p."""
    rows: list[Row] = []
    for table in document["predictions"]:
        for name, figure in table["figures"].items():
            low, high = map(number, figure["interval"] or (None, None))
            rows.append((table["source"], name, number(figure["value"]), low, high, None))
    if "comparison" in document:
        delong = document["comparison"]["delong"]
        for name, figure in document["comparison"]["differences"].items():
            low, high = map(number, figure["interval"] or (None, None))
            rows.append(("difference", name, number(figure["value"]), low, high, None))
        low, high = map(number, delong["interval"] or (None, None))
        rows.append(("DeLong", "auc", number(delong["difference"]), low, high, number(delong["p_value"])))
    return rows


def prompt_rows(document: Mapping[str, Any]) -> list[Row]:
    """Rows of `evaluate prompt`: exams, figure, value, low, high."""
    rows: list[Row] = []
    for label in ("phantoms", "synthetic"):
        for name, figure in document[label]["figures"].items():
            rows.append((label, name, number(figure["value"]), *map(number, figure["interval"])))
        for place in document[label]["places"]:
            share = place["zone_read"]
            name = f"zone_accuracy, {place['lesions']} in {place['zone']} {place['sector']}"
            rows.append((label, name, number(share["value"]), *map(number, share["interval"])))
    if document["class_head_auc"] is not None:
        rows.append(("synthetic", "class head auc", number(document["class_head_auc"]), None, None))
    return rows

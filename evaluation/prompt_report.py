"""The page of `evaluate prompt`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.exams import Exam, find_exams, load_exam
from ..imaging.previews import mosaic
from ..imaging.spec import ImageSpec
from ..metrics.classification import roc_points
from ..zoo.registry import DEFAULT_MODEL, find_card
from .charts import Interval, interval_chart, line_chart, scatter_chart
from .page import figure, heading, paragraph, picture, side_by_side, table, write_page
from .tables import number, prompt_rows

UNIT = (0.0, 1.0)
SETS = ("phantoms", "synthetic")
SHARES = ("lesion_auc", "side_accuracy", "zone_accuracy")
# Exams shown of each kind: with and without a lesion.
SHOWN = 2
SLICES = 6
COLUMNS = (
    "id", "lesion", "side", "zone", "mm", "score", "read side", "read zone", "read mm",
    "phantom's score", "phantom's side", "phantom's zone", "phantom's mm",
)  # fmt: skip


def write_prompt_report(path: Path, document: Mapping[str, Any]) -> None:
    """Writes the page: figures beside their ceiling, curves, every exam's reading, examples, the JSON.

    Args:
        path: The HTML file.
        document: The result of `evaluate_prompt`; the exams of its sources are read again for the examples.

    Raises:
        InputError: The exams cannot be read any more.
        OSError: The file cannot be written.
    """
    sources = document["sources"]
    head = document["class_head_auc"]
    parts = [
        paragraph(
            f"{document['exams']} exams ({sources['synthetic']}) sampled from the reports of phantoms "
            f"({sources['phantoms']}), {document['positives']} with a lesion, read by one reader that was trained on "
            f"phantoms. Intervals: 95 %, {document['bootstrap']['repeats']} resamples."
        ),
        paragraph("It speaks of phantoms only. The ceiling is what the reader finds in the phantoms.", dim=True),
        side_by_side(_shares(document), _roc(document), _sizes(document)),
        paragraph("" if head is None else f"Area under the class head's ROC curve: {number(head)}."),
        heading("Figures"),
        table(("exams", "figure", "value", "low", "high"), prompt_rows(document)),
        heading("Examples"),
        *_examples(document),
        heading("Exams"),
        paragraph("What the report says, what the reader finds in the sampled exam, and in the phantom.", dim=True),
        table(COLUMNS, exam_rows(document)),
    ]
    write_page(path, "Do the images show their reports?", parts, document)


def exam_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """One row per exam: the truth, the reading of the sampled exam, that of the phantom; see COLUMNS."""
    rows: list[tuple[object, ...]] = []
    readings = (document["synthetic"]["readings"], document["phantoms"]["readings"])
    for identifier, truth, *found in zip(document["ids"], document["truths"], *readings, strict=True):
        said = ("yes" if truth["positive"] else "no", truth["side"], truth["zone"], number(truth["diameter_mm"]))
        read = [(number(r["lesion_score"]), r["side"], r["zone"], number(r["diameter_mm"])) for r in found]
        rows.append((identifier, *said, *read[0], *read[1]))
    return rows


def _shares(document: Mapping[str, Any]) -> str:
    rows = []
    for name in SHARES:
        found, ceiling = (document[label]["figures"][name] for label in ("synthetic", "phantoms"))
        if found["value"] is not None and None not in found["interval"]:
            low, high = found["interval"]
            rows.append(Interval(name.replace("_", " "), found["value"], low, high, ceiling["value"]))
    return figure(interval_chart(rows, x_label="value", x_range=UNIT), "Sampled exams. Rings: the ceiling.")


def _positives(document: Mapping[str, Any]) -> np.ndarray:
    return np.array([int(truth["positive"]) for truth in document["truths"]])


def _roc(document: Mapping[str, Any]) -> str:
    lines = {}
    for label in SETS:
        scores = np.array([reading["lesion_score"] for reading in document[label]["readings"]])
        false, true = roc_points(_positives(document), np.clip(scores, 0.0, 1.0))
        lines[label] = list(zip(false.tolist(), true.tolist(), strict=True))
    chart = line_chart(lines, x_label="1 - specificity", y_label="sensitivity", x_range=UNIT, y_range=UNIT)
    return figure(chart, "Is there a lesion?")


def _sizes(document: Mapping[str, Any]) -> str:
    points = {}
    for label in SETS:
        pairs = zip(document["truths"], document[label]["readings"], strict=True)
        points[label] = [(t["diameter_mm"], r["diameter_mm"]) for t, r in pairs if t["positive"]]
    chart = scatter_chart(points, x_label="diameter in the report, mm", y_label="diameter read, mm")
    return figure(chart, "Index lesions. Nothing that reaches a probability of one half has the size 0.")


def _examples(document: Mapping[str, Any]) -> list[str]:
    spec = find_card(DEFAULT_MODEL).image
    found = {
        label: {exam.id: exam for exam in find_exams(Path(document["sources"][label]), spec.channel_names)}
        for label in SETS
    }
    figures = []
    for index in _choose(_positives(document)):
        identifier, truth = document["ids"][index], document["truths"][index]
        said = "no lesion"
        if truth["positive"]:
            said = f"a lesion of {truth['diameter_mm']:g} mm, {truth['side']} {truth['zone']}"
        pair = side_by_side(*(_picture(found[label][identifier], spec, label) for label in ("synthetic", "phantoms")))
        figures.append(figure(pair, f"{identifier}: {said}"))
    return figures


def _choose(positives: Sequence[int] | np.ndarray) -> list[int]:
    """The first few exams with a lesion, then the first few without."""
    return [int(i) for kind in (1, 0) for i in np.flatnonzero(np.asarray(positives) == kind)[:SHOWN]]


def _picture(exam: Exam, spec: ImageSpec, label: str) -> str:
    array = load_exam(exam, spec).array
    rows = dict(zip(spec.channel_names, array, strict=True))
    shown = label.removesuffix("s")
    return picture(mosaic(rows, SLICES, spacing_mm=spec.spacing_mm, label=shown), f"{shown} {exam.id}")

"""Writing predictions: a CSV with one row per exam and a JSON beside it that says what made them."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json, write_text
from ..imaging.errors import InputError
from ..imaging.layouts import parse_label, read_table

COLUMNS = ("id", "patient_id", "probability", "label")
SCHEMA = "ccella.predictions/1"


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of an exam.

    Attributes:
        id: Of the exam.
        patient_id: Of the exam.
        probability: Of class 1.
        label: The true class; None where unknown.
    """

    id: str
    patient_id: str
    probability: float
    label: int | None


def write_table(path: Path, rows: Sequence[Prediction], entry: Mapping[str, Any]) -> None:
    """Writes `path` (CSV) and, under the same name with `.json`, what made it; each whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        label = "" if row.label is None else row.label
        # Nine digits tell every float32 from its neighbours.
        writer.writerow([row.id, row.patient_id, f"{row.probability:.9g}", label])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    write_json(entry_path(path), {"schema": SCHEMA, "exams": len(rows), "sha256": digest, **entry})
    write_text(path, text.getvalue())


def read_table_rows(path: Path) -> list[Prediction]:
    """Reads what `write_table` wrote, with or without labels, in the order of the file.

    Raises:
        InputError: A column is missing, or a probability is no number within 0..1.
    """
    rows = []
    for number, line in enumerate(read_table(path), start=2):
        place = f"{path}, line {number}"
        if not set(COLUMNS) <= set(line):
            raise InputError(f"{path} lacks one of the columns {', '.join(COLUMNS)}.", "Make it again: --overwrite.")
        try:
            probability = float(line["probability"])
        except ValueError:
            probability = math.nan
        if not 0.0 <= probability <= 1.0:
            raise InputError(f"{place}: the probability is {line['probability']!r}.", "Make it again: --overwrite.")
        rows.append(Prediction(line["id"], line["patient_id"], probability, parse_label(line["label"], place)))
    return rows


def find_table(lines: Iterable[str]) -> Path:
    """The table that the records of `ccella classify --json` speak of; read to their end, when it is complete.

    Raises:
        InputError: A line is no such record, there is none, or they speak of several tables.
    """
    remedy = "Pipe `ccella classify --json` into it, or name the table."
    paths: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"Standard input, line {number} is not JSON.", remedy) from error
        if not isinstance(row, dict) or row.get("kind") != "prediction" or not isinstance(row.get("path"), str):
            raise InputError(f"Standard input, line {number} is not a prediction.", remedy)
        paths.add(row["path"])
    if len(paths) != 1:
        found = f"speaks of {len(paths)} tables" if paths else "has no predictions"
        raise InputError(f"Standard input {found}.", remedy)
    return Path(paths.pop())


def entry_path(path: Path) -> Path:
    """Where the JSON of a table of predictions lies."""
    return path.with_suffix(".json")

"""Predictions of a classifier: a table with id and probability, the label where known, and the patient."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.errors import InputError
from ..imaging.layouts import LABEL_COLUMNS, parse_label, read_table

PROBABILITY = "probability"


@dataclass(frozen=True)
class Predictions:
    """Predictions with known labels.

    Attributes:
        source: The file.
        ids: Exams, sorted.
        probabilities: Probability of class 1, [n].
        labels: 0 or 1, [n].
        patients: One per exam; the exams' ids where the table names none.
        by_patient: Whether the table, or that of the labels, names the patients.
    """

    source: Path
    ids: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    patients: tuple[str, ...]
    by_patient: bool = True


def read_predictions(path: Path, labels: Mapping[str, tuple[int, str | None]] | None = None) -> Predictions:
    """Reads a table of predictions.

    Args:
        path: CSV with the columns `id` and `probability`, and where known `label` (or `class`, `case_csPCa`) and
            `patient_id`.
        labels: Label and patient per exam, from elsewhere; see `read_labels`.

    Returns:
        The predictions, sorted by id.

    Raises:
        InputError: A column is missing, an id is empty or there twice, a probability is no number in 0..1, a label is
            unknown or contradicts `labels`, all exams are of one class, or some have a patient and others none.
    """
    rows = _read_rows(path, ("id", PROBABILITY))
    found: dict[str, tuple[float, int, str | None]] = {}
    for number, row in enumerate(rows, start=2):
        identifier = row["id"].strip()
        place = f"{path}, line {number}"
        if not identifier:
            raise InputError(f"{place} has no id.", "Give every prediction the id of its exam.")
        if identifier in found:
            raise InputError(f"{path} has two predictions for {identifier!r}.", "Keep one of them.")
        label, patient = _label_of(row, identifier, place, labels)
        found[identifier] = (_probability(row[PROBABILITY], place), label, patient)
    ids = tuple(sorted(found))
    unknown = [i for i in ids if found[i][2] is None]
    if unknown and len(unknown) < len(ids):
        raise InputError(
            f"{path}: {unknown[0]!r} has no patient_id, while others have one ({len(unknown)} of {len(ids)} lack it).",
            "Fill in the column, or remove it.",
        )
    predictions = Predictions(
        path,
        ids,
        np.array([found[i][0] for i in ids]),
        np.array([found[i][1] for i in ids]),
        tuple(found[i][2] or i for i in ids),
        by_patient=not unknown,
    )
    _check_classes(predictions)
    return predictions


def read_labels(path: Path) -> dict[str, tuple[int, str | None]]:
    """Reads labels and patients by exam id, from a table or a PI-CAI marksheet (`<patient_id>_<study_id>`).

    Raises:
        InputError: There is no id or label column, an id is there twice, or a label is not known.
    """
    rows = _read_rows(path, ())
    labels: dict[str, tuple[int, str | None]] = {}
    for number, row in enumerate(rows, start=2):
        place = f"{path}, line {number}"
        if "id" in row:
            identifier = row["id"].strip()
        elif {"patient_id", "study_id"} <= set(row):
            identifier = f"{row['patient_id']}_{row['study_id']}"
        else:
            raise InputError(f"{path} has no column 'id' (it has {', '.join(row)}).", "Name the exams in it.")
        if identifier in labels:
            raise InputError(f"{path} has two labels for {identifier!r}.", "Keep one of them.")
        label = _parse_row_label(row, place)
        if label is not None:
            labels[identifier] = (label, (row.get("patient_id") or "").strip() or None)
    return labels


def check_same_exams(first: Predictions, second: Predictions) -> None:
    """Refuses to compare predictions of different exams or with different labels; InputError names one."""
    different = sorted(set(first.ids) ^ set(second.ids))
    if different:
        missing, present = (second, first) if different[0] in first.ids else (first, second)
        raise InputError(
            f"{missing.source} has no prediction for {different[0]!r}, which {present.source} has "
            f"({len(different)} such exams).",
            "Compare predictions of the same exams.",
        )
    for number in np.flatnonzero(first.labels != second.labels)[:1]:
        raise InputError(
            f"Exam {first.ids[number]!r} has label {first.labels[number]} in {first.source} and "
            f"{second.labels[number]} in {second.source}.",
            "Correct one of them, or give the labels with --labels.",
        )


def share_patients(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Predictions of the same exams with the same patients: one table may name them for both.

    Raises:
        InputError: The tables name different patients for an exam.
    """
    if first.by_patient != second.by_patient:
        known = first if first.by_patient else second
        first, second = (replace(each, patients=known.patients, by_patient=True) for each in (first, second))
    for identifier, one, other in zip(first.ids, first.patients, second.patients, strict=True):
        if one != other:
            raise InputError(
                f"Exam {identifier!r} is of patient {one!r} in {first.source} and of {other!r} in {second.source}.",
                "Correct one of them.",
            )
    return first, second


def _read_rows(path: Path, due: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Check the path.")
    rows = read_table(path)
    if not rows:
        raise InputError(f"{path} has no row.", "Give a table with one line per exam.")
    for column in due:
        if column not in rows[0]:
            raise InputError(f"{path} has no column {column!r} (it has {', '.join(rows[0])}).", "Add it.")
    return rows


def _probability(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise InputError(f"The probability {text!r} of {place} is not a number in 0..1.", "Correct the prediction.")
    return value


def _parse_row_label(row: Mapping[str, str], place: str) -> int | None:
    column = next((name for name in LABEL_COLUMNS if name in row), None)
    return None if column is None else parse_label(row[column], place)


def _label_of(
    row: Mapping[str, str], identifier: str, place: str, labels: Mapping[str, tuple[int, str | None]] | None
) -> tuple[int, str | None]:
    own = _parse_row_label(row, place)
    patient = (row.get("patient_id") or "").strip() or None
    if labels is not None:
        if identifier not in labels:
            raise InputError(f"{place}: there is no label for {identifier!r}.", "Use the labels of these exams.")
        given, given_patient = labels[identifier]
        if own is not None and own != given:
            raise InputError(f"{place}: {identifier!r} has label {own} here and {given} in --labels.", "Correct one.")
        own, patient = given, given_patient or patient
    if own is None:
        raise InputError(f"{place}: {identifier!r} has no label.", "Fill in the column, or give --labels FILE.")
    return own, patient


def _check_classes(predictions: Predictions) -> None:
    positives = int(predictions.labels.sum())
    if positives in (0, len(predictions.ids)):
        raise InputError(
            f"All {len(predictions.ids)} exams of {predictions.source} are of class {int(predictions.labels[0])}.",
            "Figures of a classifier need exams of both classes.",
        )

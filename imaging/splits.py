"""Who trains, who validates, who tests: one split per patient, class-stratified, written once.

A patient's exams never part. The published division is 80:5:15 (Grabke et al.).
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from .atomic import write_text
from .errors import InputError
from .layouts import Exam, read_table

SPLITS = ("train", "val", "test")
SPLITS_FILE = "splits.csv"
PUBLISHED_SHARES = (0.80, 0.05, 0.15)
NO_SPLITS = "none"
COLUMN = "split"
_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}  # fmt: skip


def choose_splits(
    path: Path, exams: Sequence[Exam], choice: str | None = None, *, begun_without: bool = False
) -> dict[str, str] | None:
    """Which split each patient is in.

    Args:
        path: The file of splits that the run keeps; those in it stay, and new patients are added.
        exams: All exams of the run.
        choice: Shares such as `80:5:15`, the name of a column, a file such as another run's splits.csv, or `none`. None
            takes the column `split` where every exam has it, else the published shares.
        begun_without: The run was begun without splits, and stays so unless the choice names some.

    Returns:
        Split by patient; None where there are none.

    Raises:
        InputError: A patient is in two splits, or the choice means nothing.
    """
    known = read_splits(path) if path.is_file() else {}
    if choice == NO_SPLITS:
        if known:
            raise InputError(f"{path} holds splits.", "Remove it to go without, or leave --split away.")
        return None
    if choice is None and not known and begun_without:
        return None
    if choice is not None and ":" in choice and not Path(choice).exists():
        return known | assign_splits(exams, parse_shares(choice), known)
    if choice is None and not all(exam.meta.get(COLUMN) for exam in exams):
        return known | assign_splits(exams, PUBLISHED_SHARES, known)
    if choice is not None and Path(choice).is_file():
        stated, origin = _splits_of(exams, Path(choice)), choice
    else:
        stated, origin = splits_from_column(exams, choice or COLUMN), f"column {choice or COLUMN!r}"
    for patient, split in stated.items():
        if known.get(patient, split) != split:
            raise InputError(
                f"Patient {patient!r} is in two splits, {known[patient]} ({path}) and {split} ({origin}).",
                f"Correct one of them, or remove {path} to divide anew.",
            )
    return known | stated


def describe_splits(splits: Mapping[str, str]) -> str:
    """How many patients are in each split."""
    counts = [(name, sum(split == name for split in splits.values())) for name in SPLITS]
    return "Patients by split: " + ", ".join(f"{name} {count}" for name, count in counts)


def parse_shares(text: str) -> tuple[float, float, float]:
    """Reads `80:5:15` as shares of 1. Raises `InputError` for anything but three numbers that are not all 0."""
    try:
        numbers = [float(word) for word in text.split(":")]
    except ValueError:
        numbers = []
    total = sum(numbers)
    if len(numbers) != 3 or min(numbers) < 0 or not 0 < total < float("inf") or numbers[0] == 0:
        raise InputError(f"{text!r} are no shares of train, val and test.", "Write them as 80:5:15.")
    return numbers[0] / total, numbers[1] / total, numbers[2] / total


def patient_classes(exams: Sequence[Exam]) -> dict[str, int | None]:
    """The class of each patient: positive where one of the exams is, None where no exam has a class."""
    classes: dict[str, int | None] = {}
    for exam in exams:
        known = [label for label in (classes.get(exam.patient_id), exam.label) if label is not None]
        classes[exam.patient_id] = max(known) if known else None
    return classes


def assign_splits(
    exams: Sequence[Exam], shares: Sequence[float] = PUBLISHED_SHARES, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Gives every patient a split: shares hold within each class, and who goes where is decided by a hash.

    Args:
        exams: What to divide.
        shares: Of train, val and test.
        known: Patients that have a split already; they keep it, and the others fill up what is due.

    Returns:
        Split by patient, sorted by patient; of the exams' patients alone.
    """
    classes = patient_classes(exams)
    splits = {patient: split for patient, split in (known or {}).items() if patient in classes}
    # What rounding owes a split goes over to the next class, so that small classes do not empty `val` and `test`.
    due = dict.fromkeys(SPLITS, 0.0)
    for stratum in (1, 0, None):
        patients = sorted((patient for patient in classes if classes[patient] == stratum), key=_place)
        for split, share in zip(SPLITS, shares, strict=True):
            due[split] += share * len(patients) - sum(splits.get(patient) == split for patient in patients)
        for patient in patients:
            if patient not in splits:
                # In a tie the larger share wins, which is the first.
                splits[patient] = max(SPLITS, key=lambda split: round(due[split], 9))
                due[splits[patient]] -= 1
    return dict(sorted(splits.items()))


def splits_from_column(exams: Sequence[Exam], column: str) -> dict[str, str]:
    """The splits that a marksheet or manifest states.

    Raises:
        InputError: An exam has no such column or an unknown word there, or a patient is in two splits.
    """
    splits: dict[str, str] = {}
    for exam in exams:
        word = str(exam.meta.get(column) or "").strip()
        split = _WORDS.get(word.lower())
        if split is None:
            raise InputError(
                f"Exam {exam.id!r} has {column} = {word!r}, which is no split.", f"Use {', '.join(SPLITS)}."
            )
        _place_patient(splits, exam.patient_id, split, f"column {column!r}")
    return dict(sorted(splits.items()))


def read_splits(path: Path) -> dict[str, str]:
    """Split by patient from a CSV file with the columns patient_id and split.

    Raises:
        InputError: A column is missing, a word is no split, or a patient is in two splits.
    """
    splits: dict[str, str] = {}
    for row in read_table(path):
        if not {"patient_id", "split"} <= set(row) or row["split"] not in SPLITS:
            raise InputError(
                f"{path} has {row.get('split')!r} for patient {row.get('patient_id')!r}.",
                f"Use the columns patient_id and split, and the words {', '.join(SPLITS)}.",
            )
        _place_patient(splits, row["patient_id"], row["split"], str(path))
    return splits


def write_splits(path: Path, splits: Mapping[str, str], classes: Mapping[str, int | None]) -> None:
    """Writes split and class by patient as CSV, atomically."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient_id", "split", "class"])
    for patient, split in sorted(splits.items()):
        label = classes.get(patient)
        table.writerow([patient, split, "" if label is None else label])
    write_text(path, text.getvalue())


def _splits_of(exams: Sequence[Exam], path: Path) -> dict[str, str]:
    """The splits of the exams' patients in a file."""
    table = read_splits(path)
    lost = sorted({exam.patient_id for exam in exams} - set(table))
    if lost:
        raise InputError(
            f"{path} names no split for {len(lost)} patients, the first is {lost[0]!r}.", "Add them to the file."
        )
    return {patient: table[patient] for patient in sorted({exam.patient_id for exam in exams})}


def _place_patient(splits: dict[str, str], patient: str, split: str, origin: str) -> None:
    if splits.setdefault(patient, split) != split:
        raise InputError(
            f"Patient {patient!r} is in two splits, {splits[patient]} and {split} ({origin}).",
            "Give all exams of a patient one split: a model must not be tested on whom it was trained on.",
        )


def _place(patient: str) -> str:
    return hashlib.sha256(f"split:{patient}".encode()).hexdigest()

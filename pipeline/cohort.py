"""What is decided about a set of exams as a whole, before the first one is encoded: splits, and whether classes do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.splits import (
    PUBLISHED_SHARES,
    SPLITS,
    SPLITS_FILE,
    assign_splits,
    parse_shares,
    patient_classes,
    read_splits,
    splits_from_column,
    write_splits,
)
from .run_folder import RunFolder

NO_SPLITS = "none"
COLUMN = "split"


def plan_splits(
    out: Path, exams: Sequence[Exam] | None, choice: str | None = None, *, resume: bool = False
) -> dict[str, str] | None:
    """Which split each patient is in.

    Args:
        out: The run folder. Splits that lie there are kept, and new patients added.
        exams: All exams of the run, of every shard; None where they come one by one and are not known beforehand.
        choice: Shares such as `80:5:15`, the name of a column, or `none`. None takes the column `split` where every
            exam has it, else the published shares.
        resume: The run goes on; one that was begun without splits stays without, unless the choice names some.

    Returns:
        Split by patient; None where there are none.

    Raises:
        InputError: A patient is in two splits, or the choice means nothing.
    """
    if exams is None:
        if choice in (None, NO_SPLITS):
            return None
        raise InputError("Exams from standard input cannot be divided.", "Give a folder or a manifest, or no --split.")
    path = out / SPLITS_FILE
    known = read_splits(path) if path.is_file() else {}
    if choice == NO_SPLITS:
        if known:
            raise InputError(f"{path} holds splits.", "Remove it to go without, or leave --split away.")
        return None
    if choice is None and not known and resume and _begun(out):
        return None
    shares = PUBLISHED_SHARES
    column = COLUMN if choice is None and all(exam.meta.get(COLUMN) for exam in exams) else None
    if choice is not None and ":" in choice:
        shares = parse_shares(choice)
    elif choice is not None:
        column = choice
    if column is None:
        return known | assign_splits(exams, shares, known)
    stated = splits_from_column(exams, column)
    for patient, split in stated.items():
        if known.get(patient, split) != split:
            raise InputError(
                f"Patient {patient!r} is in two splits, {known[patient]} ({path}) and {split} (column {column!r}).",
                f"Correct the column, or remove {path} to divide anew.",
            )
    return known | stated


def keep_splits(
    run: RunFolder, exams: Sequence[Exam] | None, splits: Mapping[str, str] | None, say: Callable[[str], None]
) -> None:
    """Writes what `plan_splits` gave into the run folder, once, and says what it is."""
    if exams is None or splits is None:
        return
    path = run.path / SPLITS_FILE
    if not path.is_file() or read_splits(path) != splits:
        run.write_file(path, lambda target: write_splits(target, splits, patient_classes(exams)))
    counts = [sum(split == name for split in splits.values()) for name in SPLITS]
    parts = ", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts, strict=True))
    say(f"Patients by split: {parts} ({path}).")


def doubt_classes(exams: Sequence[Exam]) -> list[str]:
    """Sentences on classes that are missing or all equal: such exams train no class head."""
    labels = [exam.label for exam in exams]
    missing = labels.count(None)
    known = {label for label in labels if label is not None}
    if not labels or missing == len(labels):
        return ["No exam has a class: splits are not stratified, and a class head cannot learn."] if labels else []
    sentences = [f"{missing} of {len(labels)} exams have no class."] if missing else []
    if len(known) == 1:
        sentences.append(f"Every exam that has a class has class {known.pop()}: a class head cannot learn.")
    return sentences


def _begun(out: Path) -> bool:
    return any(path.stat().st_size for path in out.glob("manifest*.jsonl"))

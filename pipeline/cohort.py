"""What is decided about a set of exams as a whole, before the first one is encoded: splits, and whether classes do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.splits import (
    NO_SPLITS,
    SPLITS_FILE,
    choose_splits,
    describe_splits,
    patient_classes,
    read_splits,
    write_splits,
)
from .run_folder import RunFolder


def plan_splits(
    out: Path, exams: Sequence[Exam] | None, choice: str | None = None, *, resume: bool = False
) -> dict[str, str] | None:
    """Which split each patient is in.

    Args:
        out: The run folder. Splits that lie there are kept, and new patients added.
        exams: All exams of the run, of every shard; None where they come one by one and are not known beforehand.
        choice: Shares, a column, a file or `none`; see `choose_splits`.
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
    return choose_splits(out / SPLITS_FILE, exams, choice, begun_without=resume and _begun(out))


def keep_splits(
    run: RunFolder, exams: Sequence[Exam] | None, splits: Mapping[str, str] | None, say: Callable[[str], None]
) -> None:
    """Writes what `plan_splits` gave into the run folder, once, and says what it is."""
    if exams is None or splits is None:
        return
    path = run.path / SPLITS_FILE
    if not path.is_file() or read_splits(path) != splits:
        run.write_file(path, lambda target: write_splits(target, splits, patient_classes(exams)))
    say(f"{describe_splits(splits)} ({path}).")


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

"""Classify: exams in, the probability of class 1 out."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.standardisation import standardise_exam
from ..zoo.card import Card
from ..zoo.family import load_family
from .encode import ItemCallback
from .errors import FailureLog, RunFolderError
from .prediction_table import Prediction, entry_path, read_table_rows, write_table
from .provenance import execution_entry, licence_entry, model_entry

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

PART = "classifier"
# Exams between two writings of the partial file: a killed run loses no more.
SAVE_EVERY = 32


class PredictionFile:
    """The file that a run of `classify` writes, and what makes it resumable.

    Until the run is through, its rows stand in `<name>.partial.csv`; the file itself appears whole.

    Args:
        path: The CSV file.
        entry: What made it: the model with its digests.
        resume: Take over the rows of an earlier run of the same model.
        overwrite: Replace the file that is there.

    Raises:
        RunFolderError: The file is there and neither is given, or it is of another model.
    """

    def __init__(self, path: Path, entry: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        self.path, self.partial = path, path.with_name(f"{path.stem}.partial.csv")
        self._entry = dict(entry)
        self._rows: dict[str, Prediction] = {}
        self._old: dict[str, Prediction] = {}
        if path.suffix != ".csv":
            raise InputError(f"The output {path} is not a .csv file.", "Write for example -o predictions.csv.")
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other.", "Give one of them.")
        if path.exists() and not resume and not overwrite:
            raise RunFolderError(
                f"{path} is there already.", "Give --resume to complete it, --overwrite to replace it, or another -o."
            )
        if resume:
            for file in (path, self.partial):
                self._take_over(file)

    def find(self, exam: Exam) -> Prediction | None:
        """The exam's row where an earlier run made it."""
        old = self._old.get(exam.id)
        return None if old is None else Prediction(exam.id, exam.patient_id, old.probability, exam.label)

    def add(self, row: Prediction) -> None:
        """Adds a row.

        Raises:
            InputError: The id came before.
        """
        if row.id in self._rows:
            raise InputError(f"The id {row.id!r} comes twice.", "Give every exam an id of its own.")
        self._rows[row.id] = row
        if len(self._rows) % SAVE_EVERY == 0:
            self._write(self.partial)

    def save(self) -> None:
        """Writes what there is into the partial file, to be resumed."""
        if self._rows:
            self._write(self.partial)

    def finish(self) -> None:
        """Writes the file and removes the partial one."""
        self._write(self.path)
        for file in (self.partial, entry_path(self.partial)):
            file.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        try:
            write_table(path, list(self._rows.values()), self._entry)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written: {error.strerror or error}.", "Make room or give another file with -o."
            ) from error

    def _take_over(self, file: Path) -> None:
        if not file.is_file():
            return
        try:
            entry = json.loads(entry_path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entry = {}
        if entry.get("model") != self._entry.get("model"):
            raise RunFolderError(
                f"{file} was made with another model.", "Give --overwrite to replace it, or another -o."
            )
        self._old |= {row.id: row for row in read_table_rows(file)}


def prediction_entry(card: Card, runtime: "Runtime") -> dict[str, Any]:
    """What the JSON beside a predictions file says of the classifier and what executed it."""
    return {"model": model_entry(card), "licence": licence_entry(card), **execution_entry(runtime)}


def classify(
    exams: Iterable[Exam], card: Card, *, classifier: torch.nn.Module, runtime: "Runtime", file: PredictionFile,
    on_item: ItemCallback | None = None,
) -> Iterator[Prediction]:  # fmt: skip
    """Classifies exams one by one, as they arrive.

    Args:
        exams: What to classify.
        card: The classifier's model.
        classifier: Its network, on the runtime's device.
        runtime: Device and precision.
        file: Where the predictions go.
        on_item: Called with an exam's id when it is through: with None, or with what it failed of.

    Yields:
        One prediction per exam.

    Raises:
        InputError: No exam can be used.
        ItemsFailedError: At the end, when some exams failed; the others are in the file.
        CardError: The network does not fit the card's image.
    """
    part = card.part(PART)
    load_family(card.family).check_grid(part, card.image)
    predict = _predictor(card, classifier, runtime)
    log = FailureLog()
    try:
        for exam in exams:
            log.total += 1
            try:
                row = file.find(exam)
                if row is None:
                    row = Prediction(exam.id, exam.patient_id, predict(exam), exam.label)
                file.add(row)
            except (InputError, ArithmeticError) as error:
                log.add(exam.id, error)
                if on_item is not None:
                    on_item(exam.id, error)
                continue
            yield row
            if on_item is not None:
                on_item(exam.id, None)
    except BaseException:
        file.save()
        raise
    if len(log.failures) < log.total:
        file.finish()
    log.finish()
    if not log.total:
        raise InputError("There is no exam to classify.", "Give a folder, a manifest, or the records of --json.")


def _predictor(card: Card, classifier: torch.nn.Module, runtime: "Runtime") -> Callable[[Exam], float]:
    def predict(exam: Exam) -> float:
        # One at a time, so that an exam's probability does not depend on its neighbours.
        x = torch.from_numpy(standardise_exam(exam, card.image))[None].to(runtime.device, runtime.dtype)
        with torch.inference_mode():
            probability = float(classifier(x).float().softmax(1)[0, 1])
        if not 0.0 <= probability <= 1.0:
            raise ArithmeticError("The classifier gave a probability that is not a number.")
        return probability

    return predict

"""Classify: exams in, the probability of class 1 out."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..imaging.digests import digest_channels, digest_file
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.standardisation import standardise_exam
from ..zoo.card import Card
from ..zoo.family import load_family
from .encode import ItemCallback
from .errors import FailureLog, RunFolderError
from .prediction_table import Prediction, entry_path, read_table_rows, write_table
from .provenance import execution_entry, licence_entry, model_entry
from .seeds import Shard

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

PART = "classifier"
# Exams between two writings of the partial file: a killed run loses no more.
SAVE_EVERY = 32
# What a resumed run must share with the rows that it takes over.
SAME = ("model", "runtime", "precision", "provider", "graphs")


class PredictionFile:
    """The file that a run of `classify` writes, and what makes it resumable.

    Until the run is through, its rows stand in `<name>.partial.csv`; the file itself appears whole. The JSON beside it
    says of which images the rows are, by digest.

    Args:
        path: The CSV file. Shards write `<name>-<i>-of-<n>.csv`, which a resumed run without shards joins.
        entry: What made it: the model with its digests, runtime and precision.
        resume: Take over the rows of the same images from an earlier run of the same model.
        overwrite: Replace the file that is there.
        shard: This process's share of the run.

    Attributes:
        path: The file that is written.

    Raises:
        RunFolderError: The file is there and neither is given, or it is of another model, runtime or precision.
    """

    def __init__(
        self, path: Path, entry: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False,
        shard: Shard | None = None,
    ) -> None:  # fmt: skip
        if path.suffix != ".csv":
            raise InputError(f"The output {path} is not a .csv file.", "Write for example -o predictions.csv.")
        shards = [] if shard is not None else _find_shards(path)
        path = table_path(path, shard)
        self.path, self.partial = path, path.with_name(f"{path.stem}.partial.csv")
        self._entry = dict(entry)
        self._rows: dict[str, Prediction] = {}
        self._images: dict[str, str | None] = {}
        self._old: dict[str, tuple[Prediction, str | None]] = {}
        self._joined: dict[Path, set[str]] = {}
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other.", "Give one of them.")
        if path.exists() and not resume and not overwrite:
            raise RunFolderError(
                f"{path} is there already.", "Give --resume to complete it, --overwrite to replace it, or another -o."
            )
        if resume:
            for file in (*shards, path, self.partial):
                self._take_over(file)

    def find(self, exam: Exam, image: str | None) -> Prediction | None:
        """The exam's row where an earlier run made it from the image of this digest."""
        old, of_image = self._old.get(exam.id, (None, None))
        if old is None or image is None or image != of_image:
            return None
        return Prediction(exam.id, exam.patient_id, old.probability, exam.label)

    def add(self, row: Prediction, image: str | None) -> None:
        """Adds a row, and the digest of the image that it is of.

        Raises:
            InputError: The id came before.
        """
        if row.id in self._rows:
            raise InputError(f"The id {row.id!r} comes twice.", "Give every exam an id of its own.")
        self._rows[row.id], self._images[row.id] = row, image
        if len(self._rows) % SAVE_EVERY == 0:
            self._write(self.partial)

    def save(self) -> None:
        """Writes what there is into the partial file, to be resumed."""
        if self._rows:
            self._write(self.partial)

    def finish(self) -> None:
        """Writes the file and removes the partial one, and those of shards whose rows are all in it."""
        self._write(self.path)
        joined = [file for file, ids in self._joined.items() if file != self.path and ids <= self._rows.keys()]
        for file in (self.partial, *joined):
            for each in (file, entry_path(file)):
                each.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        try:
            write_table(path, list(self._rows.values()), {**self._entry, "images": self._images})
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
        for key in SAME:
            old, new = entry.get(key), self._entry.get(key)
            if old != new:
                words = "another model" if key == "model" else f"{key} {old}, not {new}"
                raise RunFolderError(f"{file} was made with {words}.", "Give --overwrite to replace it, or another -o.")
        # A run that was killed between the two files left a JSON that speaks of other rows.
        if entry.get("sha256") != digest_file(file):
            return
        images = dict(entry.get("images", {}))
        rows = read_table_rows(file)
        self._joined[file] = {row.id for row in rows}
        self._old |= {row.id: (row, images.get(row.id)) for row in rows}


def table_path(path: Path, shard: Shard | None) -> Path:
    """The file that a run, or one of its shards, writes for `-o path`."""
    return path if shard is None else path.with_name(f"{path.stem}{shard.suffix}.csv")


def _find_shards(path: Path) -> list[Path]:
    """What shards of the run wrote, whole or in part."""
    name = re.compile(re.escape(path.stem) + r"-[0-9]+-of-[0-9]+(\.partial)?\.csv")
    return sorted(each for each in path.parent.glob("*.csv") if name.fullmatch(each.name))


def _digest_image(exam: Exam, card: Card) -> str | None:
    """Digest of what the classifier looks at; None where it cannot be read, of which reading the exam tells more."""
    try:
        return digest_channels(exam.files, card.image.channel_names)
    except OSError:
        return None


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
                image = _digest_image(exam, card)
                row = file.find(exam, image)
                if row is None:
                    row = Prediction(exam.id, exam.patient_id, predict(exam), exam.label)
                file.add(row, image)
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

"""What the runs of a study are made from: recorded before the first one, and compared whenever the study goes on."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json, write_text
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..zoo.card import UNPINNED, Card
from .definition import Study
from .exams import StudyExams
from .partitions import fraction_name
from .sharing import Say, hold

STUDY_FILE = "study.json"
PARTITIONS = "partitions.csv"
COLUMNS = ("set", "split", "id", "patient_id", "class", "smallest_part_percent", "content")
# What each column is called where an exam differs in it.
WORDS = {
    "split": "split", "patient_id": "patient", "class": "class", "smallest_part_percent": "smallest part",
    "content": "files or report",
}  # fmt: skip
# Tables of a card on which a classifier's training depends, and a model's samples.
OF_A_CLASSIFIER = ("image", "training", "parts")
OF_A_GENERATOR = ("image", "latent", "schedule", "sampler", "conditions", "parts")
REMEDY = "Give another study folder with -o, so that no results of both are mixed, or put back what the runs here had."

Row = tuple[str, ...]


@dataclass
class FileDigests:
    """SHA-256 of files; each is read once, and again only where its size or a time of it has changed.

    Attributes:
        path: Where they are kept.
        known: Size, time of content, time of the entry and digest by path.
    """

    path: Path
    known: dict[str, list[Any]] = field(default_factory=dict)

    def load(self) -> "FileDigests":
        """Takes over what is kept."""
        if self.path.is_file():
            self.known = json.loads(self.path.read_text(encoding="utf-8"))
        return self

    def save(self) -> None:
        """Keeps what is known."""
        write_json(self.path, self.known, indent=None)

    def digest(self, path: Path) -> str:
        """Of a file, or of the names and files of a folder, as a DICOM series is one."""
        if path.is_dir():
            members = sorted(each for each in path.rglob("*") if each.is_file())
            return _digest(word for each in members for word in (each.relative_to(path).as_posix(), self.digest(each)))
        stat, key = path.stat(), str(path.resolve())
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if self.known.get(key, [])[:3] != state:
            self.known[key] = [*state, _hash_file(path)]
        return str(self.known[key][3])


def check_models(study: Study, out: Path, say: Say) -> None:
    """Refuses to go on with other models than those that the runs of a study folder were made with.

    Raises:
        InputError: A card or weights differ; or the folder has runs and no record of what they were made from.
    """
    with hold(out, "exams", say):
        recorded = _read_inputs(out)
        if recorded is None:
            if (out / "runs").exists():
                raise InputError(
                    f"{out} has runs, but no record of the exams and weights that they were made from.",
                    "Give another study folder with -o; `ccella study report` still reads what is there.",
                )
            return
        _compare_models(recorded["models"], _describe_models(study), out)


def record_inputs(study: Study, exams: StudyExams, out: Path, say: Say) -> None:
    """Writes `partitions.csv` and the digests of everything that is trained on; later calls compare instead.

    Args:
        study: The study.
        exams: Its exams, all of them there.
        out: Its folder, with its study file.
        say: Takes lines for people.

    Raises:
        InputError: An exam, its class, patient or place, a card or weights differ from what was recorded.
    """
    with hold(out, "exams", say):
        say("Comparing exams and models with those of the runs that are there.")
        files = FileDigests(out / "cache" / "files.json").load()
        rows = _partition_rows(study, exams, files)
        files.save()
        text = _csv_text(rows)
        found: dict[str, Any] = {"models": _describe_models(study), "exams": hashlib.sha256(text.encode()).hexdigest()}
        recorded = _read_inputs(out)
        if recorded is None:
            write_text(out / PARTITIONS, text)
            document = json.loads((out / STUDY_FILE).read_text(encoding="utf-8"))
            write_json(out / STUDY_FILE, {**document, "inputs": found})
            return
        _compare_models(recorded["models"], found["models"], out)
        if recorded["exams"] != found["exams"]:
            raise InputError(f"{out} has runs on other exams: {_name_difference(out / PARTITIONS, rows)}.", REMEDY)


def _read_inputs(out: Path) -> Mapping[str, Any] | None:
    document = json.loads((out / STUDY_FILE).read_text(encoding="utf-8"))
    inputs: Mapping[str, Any] | None = document.get("inputs")
    return inputs


def _describe_models(study: Study) -> dict[str, str]:
    """Digests by what they are of: the classifier's card and weights, and those of every model that samples."""
    from ..zoo.registry import find_card

    found = _describe_model("the classifier", find_card(study.classifier), OF_A_CLASSIFIER)
    if "synthetic" in study.pretraining:
        for name, source in study.synthetic.items():
            if source.sample is not None:
                card = find_card(str(source.sample["model"]))
                found |= _describe_model(f"the model of synthetic.{name}", card, OF_A_GENERATOR)
    return found


def _describe_model(name: str, card: Card, tables: Iterable[str]) -> dict[str, str]:
    from ..zoo.loading import part_digests

    chosen = json.dumps({key: card.document[key] for key in tables if key in card.document}, sort_keys=True)
    found = {f"the card of {name}": hashlib.sha256(chosen.encode()).hexdigest()}
    for path, pinned in part_digests(card).items():
        file = card.directory / path.partition("/")[2]
        found[f"{path} of {name}"] = _hash_file(file) if pinned == UNPINNED and file.is_file() else pinned
    return found


def _compare_models(old: Mapping[str, str], new: Mapping[str, str], out: Path) -> None:
    # What is not pinned is not known before it has been downloaded.
    pinned = [name for name in {**new, **old} if UNPINNED not in (old.get(name), new.get(name))]
    different = [name for name in pinned if old.get(name) != new.get(name)]
    if different:
        # A card pins its weights, so that both differ; the weights say more.
        raise InputError(f"{out} has runs with another model: {different[-1]} is not what it was.", REMEDY)


def _partition_rows(study: Study, exams: StudyExams, files: FileDigests) -> list[Row]:
    every = tuple(dict.fromkeys(name for names in study.sequences.values() for name in names))
    smallest = {exam.id: fraction for fraction in sorted(exams.parts, reverse=True) for exam in exams.parts[fraction]}
    rows = []
    for name, splits in (("institution1", exams.first), ("institution2", exams.second)):
        for split, members in splits.items():
            for exam in members:
                part = fraction_name(smallest[exam.id]) if name == "institution2" and exam.id in smallest else ""
                rows.append(_row(name, split, exam, part, every, files))
    for name, members in exams.synthetic.items():
        channels = study.sequences[name]
        # Their reports are those of institution 1's exams, which have rows of their own.
        rows += [_row(f"synthetic-{name}", "train", replace(exam, text=None), "", channels, files) for exam in members]
    return rows


def _row(name: str, split: str, exam: Exam, part: str, channels: Iterable[str], files: FileDigests) -> Row:
    words = (word for each in channels for word in (each, files.digest(exam.files[each])))
    content = _digest([exam.text or "", *words])
    return (name, split, exam.id, exam.patient_id, str(exam.label), part, content[:16])


def _csv_text(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def _name_difference(path: Path, rows: Iterable[Row]) -> str:
    """The first exam in which rows differ from the table that was written."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            old = {(row["set"], row["id"]): row for row in csv.DictReader(file)}
    except (OSError, KeyError):
        return f"{path} is not what it was"
    new = {(row[0], row[2]): dict(zip(COLUMNS, row, strict=True)) for row in rows}
    for key in {**old, **new}:
        exam = f"{key[1]} of {key[0]}"
        if key not in old or key not in new:
            return f"{exam} was {'not there' if key in new else 'there'}"
        for column, word in WORDS.items():
            if old[key].get(column) != new[key][column]:
                return f"the {word} of {exam} differ{'' if column == 'content' else 's'}"
    return f"{path} is not what it was"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        # Lengths keep words apart.
        digest.update(f"{len(word)}:{word}".encode())
    return digest.hexdigest()

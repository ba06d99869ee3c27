"""Exams as they lie in folders: PI-CAI, Prostate158 and plain folders.

- PI-CAI: `<root>/**/<patient>/<patient>_<study>_<channel>.mha`, `marksheet.csv` at the root or in
  `clinical_information/`, here also `reports/<patient>_<study>.txt`.
- Prostate158: `<root>/**/<case>/{t2,adc,dwi}.nii.gz`.
- Plain: `<id>/<id>_<channel>.<ending>` or `<id>/<channel>.<ending>`; a channel may also be a DICOM series' folder.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .errors import InputError
from .files import VOLUME_ENDINGS, volume_ending
from .names import channel_names, check_id, match_channel

MARKSHEET = "marksheet.csv"
# How the marksheet's column `center` begins for exams of `ccella phantom`.
PHANTOM_CENTER = "phantom"
DICOM_ENDINGS = (".dcm", ".ima")
# The index of a medium: a DICOM file, but no slice.
DICOM_INDEX = "DICOMDIR"
# Files of a folder whose content is looked at.
DICOM_PROBES = 2
LABEL_COLUMNS = ("case_csPCa", "class", "label")
TEXT_COLUMNS = ("text", "report", "prompt")
LABELS: Mapping[str, int] = {"yes": 1, "no": 0, "1": 1, "0": 0, "true": 1, "false": 0, "1.0": 1, "0.0": 0}
LOOKED_FOR = (
    "<id>/<id>_<channel>.<ending> (PI-CAI), <id>/<channel>.<ending> (Prostate158, plain), "
    "or a manifest (.csv, .jsonl) with the columns id and one per channel"
)

OnProblem = Callable[[str, InputError], None]


@dataclass(frozen=True)
class Exam:
    """One exam: files of its channels, and what is known about it.

    Args:
        id: Names its files; safe as a file name.
        patient_id: Exams of one patient share it, for splits.
        files: Path per channel: a file, or the folder of a DICOM series.
        text: Report; None where there is none.
        label: 1 positive, 0 negative; None where unknown.
        spacing_mm: Spacing that the exam stands for, where a manifest states one.
        synthetic: The source says that a model or simulation made it; `exams.is_synthetic` also asks the files.
        meta: What else the source says.
    """

    id: str
    patient_id: str
    files: Mapping[str, Path]
    text: str | None = None
    label: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    synthetic: bool = False
    meta: Mapping[str, object] = field(default_factory=dict)


def check_exam(exam: Exam, channels: Sequence[str], origin: Path | str) -> Exam:
    """Refuses an unsafe id and an exam without one of its channels; returns the exam."""
    check_id(exam.id, str(origin))
    missing = [channel for channel in channels if channel not in exam.files]
    if missing:
        names = " or ".join(channel_names(missing[0]))
        raise InputError(
            f"Exam {exam.id!r} in {origin} has no {missing[0]!r}; it has {', '.join(sorted(exam.files)) or 'no file'}.",
            f"Add the file ({names}), or move the exam out of the folder or manifest.",
        )
    return exam


def parse_label(value: object, origin: str) -> int | None:
    """Reads a class: YES/NO, 1/0, true/false; None for an empty cell. Raises `InputError` for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise InputError(f"The class {value!r} of {origin} is not known.", "Use 1 or 0, or YES or NO.")
    return label


def read_report(path: Path) -> str:
    """Reads a report as UTF-8. Raises `InputError` where the file is missing or not text."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"The report {path} does not exist.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The report {path} is not UTF-8 text.", "Save it as plain text in UTF-8.") from error
    if "\x00" in text:
        raise InputError(f"The report {path} is binary.", "Save it as plain text in UTF-8.")
    return text


def read_table(path: Path) -> list[dict[str, str]]:
    """Reads a CSV file with a header line. Raises `InputError` where it is not one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return parse_table(file, str(path))


def parse_table(lines: Iterable[str], origin: str) -> list[dict[str, str]]:
    """Reads lines of CSV, the header first. Raises `InputError`, naming `origin`, where they are not that."""
    try:
        rows = list(csv.DictReader(lines, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{origin} is not a readable CSV file: {error}.", "Save it as CSV in UTF-8.") from error
    for number, row in enumerate(rows, start=2):
        if None in row or any(value is None for value in row.values()):
            raise InputError(
                f"{origin}: line {number} does not have as many cells as the header.", "Quote cells that hold commas."
            )
    return rows


def _surroundings(source: Path) -> list[Path]:
    """Folders in which a marksheet or reports may lie: the source, then the one above (for a single exam's folder)."""
    return [source, source / "clinical_information", source.parent, source.parent / "clinical_information"]


def _read_marksheet(source: Path) -> dict[str, dict[str, str]]:
    """Rows of the nearest marksheet by exam id (`<patient_id>_<study_id>`); empty where there is none."""
    path = next((folder / MARKSHEET for folder in _surroundings(source) if (folder / MARKSHEET).is_file()), None)
    if path is None:
        return {}
    rows: dict[str, dict[str, str]] = {}
    for row in read_table(path):
        if not {"patient_id", "study_id"} <= set(row):
            raise InputError(
                f"{path} has no column 'patient_id' and 'study_id' (it has {', '.join(row)}).",
                "Use the marksheet of the PI-CAI layout.",
            )
        identifier = f"{row['patient_id']}_{row['study_id']}"
        if identifier in rows:
            raise InputError(f"{path} has two rows for {identifier!r}.", "Keep one of them.")
        rows[identifier] = row
    return rows


def _fail(error: OSError) -> None:
    """Raises what `os.walk` would pass over in silence: a folder that cannot be listed."""
    raise error


def _holds_dicom(folder: Path, names: Sequence[str], channels: Sequence[str]) -> bool:
    """Whether a folder holds DICOM slices: by the ending, or, for a channel's folder, by the start of its first files.

    PACS name slices `IM00001` or by bare UIDs. Folders of other names are not opened: they could be no channel.
    """
    if any(name.lower().endswith(DICOM_ENDINGS) for name in names):
        return True
    if match_channel(folder.name, channels) is None:
        return False
    others = [name for name in names if name != DICOM_INDEX and not volume_ending(name)]
    return any(_is_dicom(folder / name) for name in others[:DICOM_PROBES])


def _is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM part 10 says: a preamble of 128 bytes, then DICM."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _walk(source: Path, channels: Sequence[str]) -> Iterator[Path]:
    """Volume files and DICOM series' folders under `source`, sorted; hidden names are left out, links followed."""
    seen: set[Path] = set()
    for folder, folders, names in os.walk(source, onerror=_fail, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            folders.clear()  # a link back: without this the walk would not end
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = sorted(name for name in names if not name.startswith("."))
        if _holds_dicom(Path(folder), visible, channels):
            yield Path(folder)
        yield from (Path(folder) / name for name in visible if volume_ending(name))


@dataclass
class _Collection:
    """Files under a folder by exam id and channel, what is wrong with an exam, and DICOM series of other names."""

    exams: dict[str, dict[str, Path]] = field(default_factory=dict)
    problems: dict[str, InputError] = field(default_factory=dict)
    other_series: list[Path] = field(default_factory=list)


def _collect(source: Path, channels: Sequence[str]) -> _Collection:
    """Groups the files under `source` by exam id and channel."""
    found = _Collection()
    for path in _walk(source, channels):
        stem = path.name[: -len(volume_ending(path) or "")] if path.is_file() else path.name
        match = match_channel(stem, channels)
        if match is None:
            found.other_series += [path] if path.is_dir() else []
            continue
        identifier, channel = match[0] or path.parent.name, match[1]
        files = found.exams.setdefault(identifier, {})
        if channel in files:
            found.problems[identifier] = InputError(
                f"Exam {identifier!r} has two files for {channel!r}: {files[channel]} and {path}.",
                "Keep one of them, or name the files in a manifest.",
            )
        files[channel] = path
    return found


def _find_report(identifier: str, row: Mapping[str, str], folder: Path, source: Path) -> str | None:
    """The report of an exam: a text file in `reports/` or beside the images, else a column of the marksheet."""
    places = [place / "reports" / f"{identifier}.txt" for place in _surroundings(source)]
    places += [folder / f"{identifier}.txt", folder / "report.txt"]
    path = next((place for place in places if place.is_file()), None)
    if path is not None:
        return read_report(path)
    return next((row[column] for column in TEXT_COLUMNS if row.get(column, "").strip()), None)


def collect_usable(builders: Iterable[tuple[str, Callable[[], Exam]]], on_problem: OnProblem | None) -> list[Exam]:
    """Builds exams; those that cannot be used are told to `on_problem`, or raise where that is None.

    Raises:
        InputError: The first problem, where `on_problem` is None or no exam is left.
    """
    exams: list[Exam] = []
    first: InputError | None = None
    for identifier, build in builders:
        try:
            exams.append(build())
        except InputError as error:
            if on_problem is None:
                raise
            first = first or error
            on_problem(identifier, error)
    if first is not None and not exams:
        raise first
    return exams


def find_in_folder(source: Path, channels: Sequence[str], on_problem: OnProblem | None = None) -> list[Exam]:
    """Finds the exams under a folder, in any of this module's layouts.

    Args:
        source: The data set's folder, or one exam's.
        channels: Channels that every exam must have.
        on_problem: As `find_exams`.

    Returns:
        Exams sorted by id; the patient is that of the marksheet, else the folder `<patient>/<patient>_<study>_...`,
        else the id.

    Raises:
        InputError: Nothing is found, an exam lacks a channel or has it twice, or an id is unsafe.
    """
    source = source.resolve()
    found = _collect(source, channels)
    if not found.exams:
        message = f"No exam with the channels {', '.join(channels)} was found in {source}."
        if found.other_series:
            series = f"{len(found.other_series)} DICOM series of other names, such as {found.other_series[0]}"
            raise InputError(
                f"{message} There are {series}.",
                f"Name the series' folders <id>/{channels[0]} and so on, or list them in a manifest with columns for "
                f"id, {', '.join(channels)}.",
            )
        raise InputError(message, f"Looked for {LOOKED_FOR}; endings: {', '.join(VOLUME_ENDINGS)}.")
    marksheet = _read_marksheet(source)

    def build(identifier: str, files: Mapping[str, Path]) -> Exam:
        if identifier in found.problems:
            raise found.problems[identifier]
        row = marksheet.get(identifier, {})
        folder = next(iter(files.values())).parent
        patient = folder.name if identifier.startswith(folder.name + "_") else identifier
        column = next((name for name in LABEL_COLUMNS if name in row), None)
        exam = Exam(
            id=identifier,
            patient_id=row.get("patient_id", patient),
            files=files,
            text=_find_report(identifier, row, folder, source),
            label=parse_label(row[column], f"exam {identifier!r}") if column else None,
            synthetic=row.get("center", "").startswith(PHANTOM_CENTER),
            meta=dict(row),
        )
        return check_exam(exam, channels, source)

    return collect_usable(
        ((name, partial(build, name, files)) for name, files in sorted(found.exams.items())), on_problem
    )

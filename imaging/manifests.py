"""Exams as they stand in manifests: one CSV row or JSON line per exam, or the records that another command prints.

A manifest has the key `id` and one per channel with a path relative to the manifest; `patient_id`, `text` (or `report`,
`prompt`: the words themselves), `report_path`, `class`, `spacing_mm` and `synthetic` are optional; the rest is kept as
`meta`.
Records have the keys `id`, `channel` and `path`, one line per volume; consecutive lines of one id are one exam.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from .errors import InputError
from .layouts import (
    LABEL_COLUMNS,
    LABELS,
    TEXT_COLUMNS,
    Exam,
    OnProblem,
    check_exam,
    collect_usable,
    parse_label,
    read_report,
    read_table,
)
from .names import channel_names, check_storable

MANIFEST_ENDINGS = (".csv", ".jsonl", ".ndjson")


def _first(row: Mapping[str, object], keys: Sequence[str]) -> object:
    """Value of the first of `keys` that is there and not empty."""
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)


def _parse_spacing(value: object, origin: str) -> tuple[float, ...] | None:
    """Reads a spacing in mm: a list of numbers, or a text such as `0.5x0.5x3`."""
    if value in (None, ""):
        return None
    parts = list(value) if isinstance(value, list | tuple) else str(value).replace("x", " ").replace(",", " ").split()
    try:
        spacing = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        spacing = ()
    if not spacing or not all(0 < part < float("inf") for part in spacing):
        raise InputError(f"The spacing {value!r} of {origin} is not a list of positive mm.", "Write e.g. 0.5x0.5x3.")
    return spacing


def _parse_synthetic(value: object, origin: str) -> bool:
    """Reads whether a model or simulation made an exam; empty is no."""
    if value in (None, ""):
        return False
    flag = LABELS.get(str(value).strip().lower())
    if flag is None:
        raise InputError(f"The value {value!r} of 'synthetic' in {origin} is not known.", "Use true or false.")
    return bool(flag)


def _text(row: Mapping[str, object], base: Path, origin: str) -> str | None:
    """The report in a row, or in the file that the row names."""
    if row.get("report_path"):
        return read_report(base / str(row["report_path"]))
    text = _first(row, TEXT_COLUMNS)
    if text is not None and not isinstance(text, str):
        raise InputError(f"The text of {origin} is {type(text).__name__}, not text.", "Put the report into a string.")
    return text


def _build(row: Mapping[str, object], files: Mapping[str, Path], base: Path, origin: str) -> Exam:
    """Makes an exam of a row whose files are known."""
    check_storable(row, origin)
    identifier = row.get("id")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
        raise InputError(f"{origin} has no id.", "Give every line a key 'id'.")
    return Exam(
        id=str(identifier),
        patient_id=str(_first(row, ("patient_id", "prompt_id", "id"))),
        files=files,
        text=_text(row, base, origin),
        label=parse_label(_first(row, LABEL_COLUMNS), origin),
        spacing_mm=_parse_spacing(row.get("spacing_mm"), origin),
        synthetic=_parse_synthetic(row.get("synthetic"), origin),
        meta=dict(row),
    )


def _parse_lines(lines: Iterable[str], origin: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Reads JSON Lines as (line number, object); empty lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # Beside what is no JSON: numbers of thousands of digits, and thousands of brackets.
            raise InputError(
                f"{origin}: line {number} is not JSON: {getattr(error, 'msg', error)}.",
                "Write one JSON object per line.",
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{origin}: line {number} is not a JSON object.", "Write one JSON object per line.")
        yield number, row


def _is_record(row: Mapping[str, object]) -> bool:
    """Tells a record of one volume from a row of one exam."""
    return "channel" in row and "path" in row


def _group(
    rows: Iterable[tuple[int, dict[str, object]]], channels: Sequence[str], base: Path, origin: str
) -> Iterator[Exam]:
    """Makes exams of consecutive records with one id."""
    volumes = ((number, row) for number, row in rows if row.get("kind", "volume") == "volume")
    seen: set[str] = set()
    for identifier, group in groupby(volumes, key=lambda item: str(item[1].get("id", ""))):
        files: dict[str, Path] = {}
        merged: dict[str, object] = {}
        place = origin
        for number, row in group:
            place = f"{origin}, line {number}"
            if not _is_record(row):
                raise InputError(f"{place}: the record has no 'channel' and 'path'.", "Pipe the output of --json.")
            name = str(row["channel"])
            channel = next((c for c in channels if name in channel_names(c)), name)
            if channel in files:
                raise InputError(f"{place}: {identifier!r} has two files for {channel!r}.", "Keep one of them.")
            files[channel] = base / str(row["path"])
            merged = {**row, **merged}
        if identifier in seen:
            raise InputError(
                f"{place}: the records of {identifier!r} do not stand together.", "Sort the records by id."
            )
        seen.add(identifier)
        yield check_exam(_build(merged, files, base, place), channels, origin)


def exams_from_records(
    lines: Iterable[str], channels: Sequence[str], *, base: Path | None = None, origin: str = "standard input"
) -> Iterator[Exam]:
    """Reads exams from the JSON Lines that another command prints, as they arrive.

    Args:
        lines: One record per volume with `id`, `channel`, `path`, and `prompt` or `text`, `class` where known. Records
            of one id stand together. Records of another `kind` than `volume` are passed over.
        channels: Channels that every exam must have.
        base: Folder that relative paths start from; None is the current one.
        origin: For messages: where the lines come from.

    Yields:
        Exams in the order of the records.

    Raises:
        InputError: A line is no such record, an id comes back later, an exam lacks a channel or has it twice, or
            there is no exam.
    """
    exam = None
    for exam in _group(_parse_lines(lines, origin), channels, base or Path(), origin):
        yield exam
    if exam is None:
        raise InputError(f"{origin[:1].upper()}{origin[1:]} has no exam.", "Pipe in the output of --json.")


def find_in_manifests(
    paths: Sequence[Path], channels: Sequence[str], on_problem: OnProblem | None = None
) -> list[Exam]:
    """Reads the exams of a manifest file, or of those that the shards of one run wrote.

    Args:
        paths: `.csv`, `.jsonl` or `.ndjson`.
        channels: Channels that every exam must have.
        on_problem: As `find_exams`; records of volumes are refused as a whole.

    Returns:
        Exams in the order of the manifests.

    Raises:
        InputError: A manifest cannot be read or lacks an id or a channel, an id is there twice, or there is no exam.
    """
    exams: list[Exam] = []
    for path in paths:
        rows = _read_rows(path)
        if rows and _is_record(rows[0][1]):
            exams += _group(rows, channels, path.parent, str(path))
        else:
            builders = ((str(row.get("id")), partial(_from_row, row, channels, path, n)) for n, row in rows)
            exams += collect_usable(builders, on_problem)
    origin = " and ".join(map(str, paths))
    if not exams:
        raise InputError(f"{origin} lists no exam.", "Give every exam a line with its id and one path per channel.")
    twice = next((name for name, count in Counter(exam.id for exam in exams).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{origin} lists the id {twice!r} twice.", "Give every exam an id of its own.")
    return exams


def _read_rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    """The rows of a manifest with their line numbers."""
    if path.suffix.lower() == ".csv":
        return [(number, dict(row)) for number, row in enumerate(read_table(path), start=2)]
    try:
        return list(_parse_lines(path.read_text(encoding="utf-8-sig").splitlines(), str(path)))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text.", "Save it as JSON Lines in UTF-8.") from error


def _from_row(row: Mapping[str, object], channels: Sequence[str], path: Path, number: int) -> Exam:
    """Makes an exam of a manifest's line."""
    files = {}
    for channel in channels:
        value = _first(row, channel_names(channel))
        if value is not None:
            files[channel] = path.parent / str(value)
    return check_exam(_build(row, files, path.parent, f"{path}, line {number}"), channels, path)

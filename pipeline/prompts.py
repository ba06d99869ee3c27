"""Prompts: what to sample, from text files, folders, manifests or standard input."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..imaging.errors import InputError
from ..imaging.layouts import parse_label, parse_table, read_table
from ..imaging.names import check_id, check_storable
from ..zoo.record import SCHEMA
from ..zoo.record_keys import find_wrong_key
from .prompt_formats import (
    CLASS_COLUMNS,
    KNOWN_COLUMNS,
    SPACING_COLUMNS,
    TEXT_COLUMNS,
    check_separator,
    check_text_ending,
    is_report,
    is_table,
)
from .seeds import MAX_SEED

LINE_ENDINGS = (".jsonl", ".ndjson")
# A report is a few kilobytes; a file beyond this is something else.
MAX_PROMPT_BYTES = 1_000_000
# The ids of PI-CAI say whose exam it is: <patient>_<study>.
PICAI_ID = re.compile(r"([0-9]{5})_[0-9]{7}")


@dataclass(frozen=True)
class PromptItem:
    """One thing to sample.

    Attributes:
        id: Names the output; safe as a folder name.
        text: The report.
        class_label: Class that overrides the one the model predicts from the report, or None.
        spacing_mm: Voxel spacing of the output along its axes, or None for the card's.
        seed: Seed of the noise, or None to take one from the id.
        meta: Other columns of the manifest, kept in the sidecar.
        patient_id: Whose report it is, where that is known.
        prompt_id: Id of the prompt where `id` is another: of an item per seed, or of a record that was sampled itself.
    """

    id: str
    text: str
    class_label: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    seed: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    patient_id: str | None = None
    prompt_id: str | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What a sidecar says of where the report came from, so that no exam is trained on and judged by at once."""
        prompt_id = self.prompt_id or self.id
        return {"patient_id": self.patient_id or prompt_id, "prompt_id": prompt_id}


def read_prompts(source: Path | str, stream: BinaryIO | None = None) -> list[PromptItem]:
    """Reads what to sample.

    Args:
        source: A text file (`.txt`, `.text`, `.md` or no ending; the name without it is the id), a folder of `.txt` or
            `.text` files, a manifest (`.jsonl` or `.csv` with one line per item: `id`, one of `prompt`, `text`,
            `report`, and where wanted `class`, `spacing`, `seed`, `patient_id`), or `-`.
        stream: Bytes of standard input, for `-`: JSON Lines when it starts with `{`, CSV when its first line names the
            columns of a manifest, else the text of one prompt.

    Returns:
        The items in the order written; files of a folder sorted by name.

    Raises:
        InputError: Missing, empty or binary prompt, a file or stream of another format, an unsafe or repeated id, or a
            value that is none.
    """
    if str(source) == "-":
        if stream is None:
            raise ValueError("Standard input was asked for, but no stream was given.")
        return _check(_read_stream(stream), "standard input")
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_report(file))
        if not files:
            raise InputError(f"The folder {path} has no .txt file.", "Put one report per file, named <id>.txt.")
        return _check((_read_text(file) for file in files), str(path))
    if not path.exists():
        raise InputError(f"The prompt {path} does not exist.", "Check the path.")
    ending = path.suffix.lower()
    if ending == ".csv":
        check_separator(path)
        return _check((_parse_row(row, f"{path}, line {n}") for n, row in enumerate(read_table(path), 2)), str(path))
    if ending in LINE_ENDINGS:
        return _check(_read_lines(_decode(_read_bytes(path, None), str(path)), str(path)), str(path))
    check_text_ending(path)
    return _check([_read_text(path)], str(path))


def _read_bytes(path: Path, limit: int | None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise InputError(
                f"The prompt {path} has {path.stat().st_size} bytes; a report has at most {limit}.", "Give a text file."
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The prompt {path} cannot be read: {error.strerror}.", "Check the file's permissions."
        ) from error


def _decode(data: bytes, origin: str) -> str:
    """Text of UTF-8 bytes, without byte order mark and with plain line ends."""
    remedy = "Save it as plain text in UTF-8."
    if b"\x00" in data:
        raise InputError(f"The prompt {origin} is binary, not text.", remedy)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The prompt {origin} is not UTF-8 text: byte {error.start} means nothing.", remedy) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _clean(text: str, origin: str) -> str:
    text = text.strip()
    if not text:
        raise InputError(f"The prompt {origin} is empty.", "Write a report into it.")
    check_storable(text, f"The prompt {origin}")
    return text


def _read_text(path: Path) -> PromptItem:
    text = _clean(_decode(_read_bytes(path, MAX_PROMPT_BYTES), str(path)), str(path))
    return PromptItem(check_id(path.stem, str(path)), text, patient_id=_patient_of(path.stem))


def _read_stream(stream: BinaryIO) -> Iterable[PromptItem]:
    origin = "standard input"
    text = _decode(stream.read(), origin)
    if text.lstrip().startswith("{"):
        return _read_lines(text, origin)
    if is_table(text):
        rows = parse_table(io.StringIO(text.lstrip()), origin)
        return (_parse_row(row, f"{origin}, line {n}") for n, row in enumerate(rows, 2))
    return [PromptItem("stdin", _clean(text, origin))]


def _read_lines(text: str, origin: str) -> Iterator[PromptItem]:
    """Items of JSON Lines. Records that another command printed are items too: all of one id are one item."""
    previous = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{origin}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # Beside what is no JSON: numbers of thousands of digits, and thousands of brackets.
            message = f"{place} is not JSON: {getattr(error, 'msg', error)}."
            raise InputError(message, "Write one JSON object per line.") from error
        if not isinstance(row, dict):
            raise InputError(f"{place} is not a JSON object.", "Write one JSON object per line.")
        if row.get("schema") == SCHEMA:
            wrong = find_wrong_key(row)
            if wrong is not None:
                raise InputError(f"{place}: {wrong}.", "Pipe the output of --json.")
            if row.get("id") == previous:
                continue
            previous = row.get("id")
            # What else a record says is about another artefact.
            label = (row.get("conditions") or {}).get("class") if row.get("synthetic") else row.get("class")
            prompt_id = row.get("prompt_id")
            row = {
                "id": row.get("id"),
                "prompt": row.get("prompt"),
                "class": label,
                "spacing_mm": row.get("spacing_mm"),
                "patient_id": row.get("patient_id"),
            }
            yield replace(_parse_row(row, place), prompt_id=prompt_id)
            continue
        yield _parse_row(row, place)


def _parse_row(row: Mapping[str, Any], origin: str) -> PromptItem:
    """One item of a manifest's line."""
    identifier = row.get("id")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
        raise InputError(f"{origin} has no id.", "Give every line a key 'id'.")
    text = _single(row, TEXT_COLUMNS, origin)
    if not isinstance(text, str):
        raise InputError(f"{origin} has no prompt.", f"Give every line one of the keys {', '.join(TEXT_COLUMNS)}.")
    if "\x00" in text:
        raise InputError(f"The prompt of {origin} is binary, not text.", "Write the report as text.")
    meta = {key: value for key, value in row.items() if key not in KNOWN_COLUMNS}
    check_storable(meta, origin)
    return PromptItem(
        id=check_id(str(identifier), origin),
        text=_clean(text.replace("\r\n", "\n"), f"of {origin}"),
        class_label=parse_label(_single(row, CLASS_COLUMNS, origin), origin),
        spacing_mm=parse_spacing(_single(row, SPACING_COLUMNS, origin), origin),
        seed=parse_seed(row.get("seed"), origin),
        meta=meta,
        # A patient may be called 0.
        patient_id=_patient_of(str(identifier)) if row.get("patient_id") in (None, "") else str(row["patient_id"]),
    )


def _patient_of(identifier: str) -> str | None:
    """The patient that an exam's id names, or None."""
    match = PICAI_ID.fullmatch(identifier)
    return match[1] if match else None


def _single(row: Mapping[str, Any], names: Sequence[str], origin: str) -> Any:
    """The value under one of several names for the same thing; InputError when two of them have one."""
    found = [name for name in names if row.get(name) not in (None, "")]
    if len(found) > 1:
        raise InputError(f"{origin} has both {found[0]!r} and {found[1]!r}.", "Keep one of them.")
    return row[found[0]] if found else None


def parse_spacing(value: object, origin: str) -> tuple[float, ...] | None:
    """Reads a voxel spacing in mm: a list of numbers, or a text such as `1.5x1.5x3`; None and "" are None."""
    if value is None or value == "":
        return None
    parts = value if isinstance(value, list | tuple) else str(value).replace("x", " ").replace(",", " ").split()
    try:
        spacing = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        spacing = ()
    if not spacing or not all(0.0 < part < float("inf") for part in spacing):
        raise InputError(f"The spacing {value!r} of {origin} is not a list of positive mm.", "Write e.g. 1.5x1.5x3.")
    return spacing


def parse_seed(value: object, origin: str) -> int | None:
    """Reads a seed; None and "" are None."""
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool | float) or not text.isascii() or not text.isdigit() or int(text) > MAX_SEED:
        raise InputError(f"The seed {value!r} of {origin} is not a whole number from 0 to 2^63 - 1.", "Write e.g. 17.")
    return int(text)


def _check(items: Iterable[PromptItem], origin: str) -> list[PromptItem]:
    """The items, after making sure that there is one and that no two would write to one place."""
    found: dict[str, str] = {}
    checked = []
    for item in items:
        # Some file systems do not tell upper from lower case.
        key = item.id.casefold()
        if key in found:
            raise InputError(
                f"The ids {found[key]!r} and {item.id!r} are the same.", "Give every prompt an id of its own."
            )
        found[key] = item.id
        checked.append(item)
    if not checked:
        raise InputError(f"There is no prompt in {origin}.", "Give at least one.")
    return checked


def expand_seeds(items: Sequence[PromptItem], seeds: Sequence[int] | None) -> list[PromptItem]:
    """Gives every item its seed.

    Args:
        items: What to sample.
        seeds: Seeds the user asked for, each with every item; they replace those of a manifest. None: an item keeps
            its own seed, or takes one from its id.

    Returns:
        Items with a seed. With several seeds each id ends in `_s<seed>`.
    """
    # Imported late: it brings torch, which reading prompts does not need.
    from ..diffusion.noise import seed_from_id

    if seeds is None:
        return [replace(i, seed=i.seed if i.seed is not None else seed_from_id(i.id)) for i in items]
    if len(seeds) == 1:
        return [replace(item, seed=seeds[0]) for item in items]
    expanded = (
        replace(item, id=f"{item.id}_s{seed}", seed=seed, prompt_id=item.prompt_id or item.id)
        for item in items
        for seed in seeds
    )
    return _check(expanded, "the items")

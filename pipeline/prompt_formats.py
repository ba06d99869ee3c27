"""Which files and streams are prompts, and what to do with those that are something else."""

import csv
import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..imaging.errors import InputError

TEXT_COLUMNS = ("prompt", "text", "report")
CLASS_COLUMNS = ("class", "case_csPCa")
SPACING_COLUMNS = ("spacing", "spacing_mm")
KNOWN_COLUMNS = {"id", "seed", "patient_id", *TEXT_COLUMNS, *CLASS_COLUMNS, *SPACING_COLUMNS}
TEXT_ENDINGS = ("", ".txt", ".text", ".md")
# In a folder .md is left to its README.
REPORT_ENDINGS = (".txt", ".text")
OTHER_SEPARATORS = "\t;|"
AS_CSV = "Save the table as .csv, with commas, in UTF-8."
AS_TEXT = "Save it as plain text, .txt."
# What to do with files that are easily taken for a report or a manifest.
REMEDIES = {
    ".json": "A sidecar's exam is made again with --from FILE.json; many prompts go into a .jsonl, one object a line.",
    **dict.fromkeys((".tsv", ".tab", ".xls", ".xlsx", ".ods"), AS_CSV),
    **dict.fromkeys((".rtf", ".doc", ".docx", ".odt", ".pdf", ".html", ".htm", ".xml"), AS_TEXT),
}


def check_text_ending(path: Path) -> None:
    """Raises InputError for a file whose ending is not that of plain text."""
    ending = path.suffix.lower()
    if ending not in TEXT_ENDINGS:
        raise InputError(
            f"The prompt {path} is no text file by its ending {path.suffix!r}.",
            REMEDIES.get(ending, "Let the name of a plain text end in .txt, that of a manifest in .csv or .jsonl."),
        )


def is_report(path: Path) -> bool:
    """Whether a file of a folder of prompts is one: plain text by its ending, and not hidden."""
    return path.suffix.lower() in REPORT_ENDINGS and not path.name.startswith(".") and path.is_file()


def check_separator(path: Path) -> None:
    """Raises InputError for a CSV manifest whose cells are separated by something else than commas."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(65536)
    if any(_names_columns(header.strip(), separator) for separator in OTHER_SEPARATORS):
        raise InputError(f"The cells of {path} are not separated by commas.", AS_CSV)


def is_table(text: str) -> bool:
    """Whether a stream is a CSV manifest, by its first line. Raises InputError for other tables and JSON arrays."""
    if _is_array(text):
        raise InputError("Standard input is a JSON array.", "Write one JSON object per line, as jq -c '.[]' does.")
    header = text.lstrip().partition("\n")[0]
    if _names_columns(header, ","):
        return True
    if any(_names_columns(header, separator) for separator in OTHER_SEPARATORS):
        raise InputError("Standard input is a table whose cells are not separated by commas.", AS_CSV)
    return False


def near_columns(names: Iterable[str]) -> dict[str, str]:
    """Columns that condition nothing and are spelt almost as one that does: `Class`, `calss`; not `prompt_id`."""
    known = {name.casefold(): name for name in sorted(KNOWN_COLUMNS)}
    found = {}
    for name in names:
        word = name.strip().casefold()
        # `prompt_id` is a name of its own, not `prompt` misspelt.
        qualified = any(word.startswith(f"{other}_") for other in known)
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.85 if qualified else 0.8)
        if near and name not in KNOWN_COLUMNS:
            found[name] = known[near[0]]
    return found


def _is_array(text: str) -> bool:
    """Tells a JSON array from a report such as `[History] ...`."""
    text = text.strip()
    if not text.startswith("["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text[1:].lstrip().startswith("{")
    return True


def _names_columns(header: str, separator: str) -> bool:
    """Whether a line is the header of a manifest: it has the columns id and prompt, or several known ones only."""
    try:
        cells: Sequence[str] = next(csv.reader([header], delimiter=separator), [])
    except csv.Error:
        return False
    return ("id" in cells and any(name in cells for name in TEXT_COLUMNS)) or (
        len(cells) > 1 and set(cells) <= KNOWN_COLUMNS
    )

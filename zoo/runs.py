"""Reading what a command wrote: the records of a run folder, whole or in shards."""

from collections.abc import Iterator
from pathlib import Path

from ..imaging.errors import InputError
from ..imaging.run_manifests import RUN_MANIFEST, run_manifests
from .record import Record, parse_record


def read_run(folder: Path) -> Iterator[Record]:
    """The records of a run folder in input order, from its manifest or from the manifests of its shards.

    Raises:
        InputError: No manifest, a line that is no record, or the manifest of a shard is missing.
    """
    for path in find_manifests(folder):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield parse_record(line, base=folder, source=f"{path}, line {number}")
                except ValueError as error:
                    raise InputError(str(error), "Finish the run with --resume, then read it.") from error


def find_manifests(folder: Path) -> list[Path]:
    """The manifest of a run folder, or those of its shards in order; InputError where any is missing."""
    found = run_manifests(folder)
    if not found:
        raise InputError(f"{folder} has no {RUN_MANIFEST}.", "Give the output folder of an earlier command.")
    return found

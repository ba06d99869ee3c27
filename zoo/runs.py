"""Reading what a command wrote: the records of a run folder, whole or in shards."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..imaging.errors import InputError
from .record import Record, parse_record

SHARD_MANIFEST = re.compile(r"manifest-([0-9]+)-of-([0-9]+)\.jsonl")


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
    """The manifest of a run folder, or those of its shards in order; InputError where one is missing."""
    whole = folder / "manifest.jsonl"
    if whole.is_file():
        return [whole]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shards = {(int(m[1]), int(m[2])) for m in map(SHARD_MANIFEST.fullmatch, names) if m}
    if not shards:
        raise InputError(f"{folder} has no manifest.jsonl.", "Give the output folder of an earlier command.")
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise InputError(
            f"{folder} holds manifests of {counts[0]} and of {counts[1]} shards.", "Give each run its folder."
        )
    missing = [i for i in range(1, counts[0] + 1) if (i, counts[0]) not in shards]
    if missing:
        shard = f"{missing[0]}/{counts[0]}"
        raise InputError(f"{folder} lacks the manifest of shard {shard}.", f"Run it with --shard {shard}.")
    return [folder / f"manifest-{i}-of-{counts[0]}.jsonl" for i in range(1, counts[0] + 1)]

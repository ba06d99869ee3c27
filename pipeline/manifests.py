"""Manifests and sidecars of a run folder: where they lie, how they are read, mended and kept in input order."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..imaging.atomic import write_text
from ..imaging.errors import InputError
from ..zoo.record import Record, parse_record

SHARD_MANIFEST = re.compile(r"manifest-([0-9]+)-of-([0-9]+)\.jsonl")


def sidecar_path(artefact: Path) -> Path:
    """Where the sidecar of an artefact lies: the same name with `.json`."""
    name = artefact.name.removesuffix(".gz")
    return artefact.with_name(f"{name.rpartition('.')[0]}.json")


def read_sidecar(path: Path, folder: Path) -> Record | None:
    """The record of a sidecar of a run folder, or None where it is missing, damaged or not that of an artefact."""
    try:
        record = parse_record(path.read_text(encoding="utf-8"), base=folder, source=str(path))
    except (FileNotFoundError, ValueError):
        return None
    return record if sidecar_path(record.path) == path else None


def find_sidecars(folder: Path) -> Iterator[Record]:
    """The records of all sidecars of a run folder, sorted by path."""
    for path in sorted(folder.glob("*/*.json")):
        record = read_sidecar(path, folder)
        if record is not None:
            yield record


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


class Manifest:
    """The manifest that one process writes: an index of the sidecars of a run folder.

    Args:
        path: The file; made where missing. Half-written or damaged lines of a dead run are dropped: the sidecars hold
            what they said.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._order: dict[str, None] = {}
        self._stale = False
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        records = {self._name(record): self._line(record) for record in self._parse(text.splitlines())}
        self._listed = dict.fromkeys(records)
        mended = "".join(records.values())
        if mended != text or not path.exists():
            write_text(path, mended)

    def _parse(self, lines: Iterable[str]) -> Iterator[Record]:
        for line in lines:
            try:
                yield parse_record(line, base=self.path.parent, source=str(self.path))
            except ValueError:
                continue

    def _name(self, record: Record) -> str:
        return record.path.relative_to(self.path.parent).as_posix()

    def _line(self, record: Record) -> str:
        return json.dumps(record.to_json(relative_to=self.path.parent), ensure_ascii=False, allow_nan=False) + "\n"

    def records(self) -> Iterator[Record]:
        """The records the file lists now."""
        return self._parse(self.path.read_text(encoding="utf-8").splitlines())

    def add(self, record: Record) -> None:
        """Lists a record that was just written, or found done; the call order is the input order."""
        name = self._name(record)
        self._order[name] = None
        if name in self._listed:
            # It may have moved or been made again; `finish` puts that right.
            self._stale = True
            return
        with self.path.open("ab") as file:
            file.write(self._line(record).encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Puts the lines of a resumed run in input order; records that this run did not visit stay, at the end."""
        rest = [name for name in self._listed if name not in self._order]
        if not self._stale and not rest:
            return
        folder = self.path.parent
        paths = [sidecar_path(folder / name) for name in [*self._order, *rest]]
        records = (read_sidecar(path, folder) for path in paths)
        write_text(self.path, "".join(self._line(record) for record in records if record is not None))

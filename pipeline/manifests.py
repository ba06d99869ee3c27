"""Manifests and sidecars of a run folder: where they lie, how they are read, mended and kept in input order."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..imaging.atomic import write_text
from ..zoo.record import Record, parse_record


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

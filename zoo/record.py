"""A record: one artefact and what is known of it. Its JSON is the sidecar, the manifest's line, the line of `--json`.

Keys every record has: `schema`, `kind`, `id`, `path`. `path` is relative to the run folder on disk, and can be opened
from the working directory on standard output. A volume also has `channel` and `channels` (all the channels of its
exam), so that a reader of a stream knows when an exam is complete.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .record_keys import find_wrong_key

SCHEMA = "ccella.record/1"
KINDS = ("volume", "latent")


@dataclass(frozen=True)
class Record:
    """One artefact.

    Attributes:
        id: The item (an exam, a tile, a prompt) the artefact belongs to.
        kind: "volume" or "latent".
        path: The artefact's file.
        data: Everything else, JSON-able: channel, prompt, conditions, seed, sampler, model, versions, parents ...
    """

    id: str
    kind: str
    path: Path
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, *, relative_to: Path | None = None) -> dict[str, Any]:
        """The record as a JSON object, with `path` relative to a folder when one is given."""
        path = self.path.relative_to(relative_to) if relative_to is not None else self.path
        return {"schema": SCHEMA, "kind": self.kind, "id": self.id, "path": path.as_posix(), **self.data}

    def moved(self, path: Path) -> "Record":
        return replace(self, path=path)


def parse_record(line: str, *, base: Path, source: str) -> Record:
    """Reads one record.

    Args:
        line: One JSON object.
        base: Folder that a relative `path` starts from.
        source: Where the line came from, for messages.

    Raises:
        ValueError: The line is not a record; the message names `source`.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Beside what is no JSON: numbers of thousands of digits, and thousands of brackets.
        raise ValueError(f"{source} is not JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{source} is not a ccella record: it lacks schema {SCHEMA!r}.")
    for key in ("id", "kind", "path"):
        if not isinstance(data.get(key), str):
            raise ValueError(f"{source}: key {key!r} is {data.get(key)!r}; expected a string.")
    wrong = find_wrong_key(data)
    if wrong is not None:
        raise ValueError(f"{source}: {wrong}.")
    rest = {key: value for key, value in data.items() if key not in ("schema", "id", "kind", "path")}
    return Record(data["id"], data["kind"], base / data["path"], rest)


def group_items(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Consecutive records of one item together; producers write an item's records one after another."""
    for _, group in itertools.groupby(records, key=lambda record: record.id):
        yield list(group)

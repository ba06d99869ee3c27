"""Engines on disk: each plan under the digest of its key, with the record of its comparison with PyTorch.

Plans of several GPUs, versions and shapes lie side by side. One that is not what its record says is built again and
never loaded; one whose comparison failed is never written.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..imaging.atomic import remove_remains, write_bytes, write_json
from ..imaging.locks import FileLock, LockUnsupportedError
from ..zoo.card import Card
from ..zoo.errors import DigestMismatchError
from ..zoo.loading import sha256_file
from .records import stem
from .tensorrt_build import EngineKey

RECORD_SCHEMA = "ccella.tensorrt/1"
FOLDER = "tensorrt"
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Engine:
    """A stored plan.

    Attributes:
        path: The plan; its record lies beside it.
        sha256: Of the plan.
        key: What it was built from and for.
        tolerance: Largest difference from PyTorch that was allowed, as a share of the largest output.
        max_error: Largest difference found.
        checks: Per comparison the sizes, the output and the difference.
        versions: Of the libraries that made and checked it.
    """

    path: Path
    sha256: str
    key: EngineKey
    tolerance: float
    max_error: float
    checks: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]

    def read(self) -> bytes:
        """The plan; DigestMismatchError where it is not the one that was compared."""
        data = self.path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise DigestMismatchError(
                f"{self.path} has SHA-256 {found}; its record says {self.sha256}: it was changed meanwhile.",
                "Run the command again.",
            )
        return data


def engine_folders(card: Card) -> tuple[Path, Path]:
    """Where engines lie: in the model folder, and in the user's cache where that folder cannot be written.

    The cache is `$XDG_CACHE_HOME/ccella/tensorrt` (`~/.cache/ccella/tensorrt`).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return card.directory / FOLDER, cache / "ccella" / FOLDER


def plan_name(graph: str, key: EngineKey) -> str:
    """File name of a plan."""
    return f"{stem(graph, key.precision)}.{key.digest[:16]}.plan"


def find_engine(card: Card, graph: str, key: EngineKey) -> tuple[Engine | None, str]:
    """The stored engine of a key, and otherwise why there is none that can be used."""
    reason = "there is none for this key yet"
    for folder in engine_folders(card):
        plan = folder / plan_name(graph, key)
        try:
            engine = _read_record(plan, key)
            if sha256_file(plan) == engine.sha256:
                return engine, ""
            reason = f"{plan.name} is damaged"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            reason = f"{plan.with_suffix('.json').name} is damaged"
    return None, reason


def _read_record(plan: Path, key: EngineKey) -> Engine:
    """The engine that a record speaks of; ValueError and its like where it is no record of this key."""
    stored = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))
    error, tolerance = float(stored["max_error"]), float(stored["tolerance"])
    if stored["schema"] != RECORD_SCHEMA or stored["key"] != json.loads(json.dumps(asdict(key))):
        raise ValueError("it is of another key")
    if not (math.isfinite(error) and error <= tolerance):
        raise ValueError("its comparison failed")
    return Engine(plan, str(stored["plan_sha256"]), key, tolerance, error, stored["checks"], stored["versions"])


def write_engine(folder: Path, graph: str, data: bytes, engine: Mapping[str, Any], key: EngineKey) -> Engine:
    """Writes a plan that agrees with PyTorch, and its record.

    Args:
        folder: Where; its lock is held.
        graph: Name of the graph.
        data: The plan.
        engine: `tolerance`, `max_error`, `checks` and `versions`.
        key: What it was built from and for.
    """
    plan = folder / plan_name(graph, key)
    record, digest = plan.with_suffix(".json"), hashlib.sha256(data).hexdigest()
    remove_remains([plan, record])
    # The record goes last: without it a plan is never loaded.
    record.unlink(missing_ok=True)
    write_bytes(plan, data)
    document = {"schema": RECORD_SCHEMA, "graph": graph, "key": asdict(key), "key_sha256": key.digest}
    write_json(record, {**document, "plan_sha256": digest, **engine})
    return Engine(plan, digest, key, **engine)


@contextmanager
def hold_folder(card: Card, say: Callable[[str], None]) -> Iterator[Path]:
    """Yields the folder that takes new engines, while no other process builds there.

    Args:
        card: The model.
        say: Told where the user would wonder: another folder, a wait, or a file system without locks.

    Raises:
        OSError: Neither folder can be written.
    """
    folder, lock = _open_folder(card, say)
    try:
        try:
            if not lock.acquire():
                say(f"Waiting for another process that builds engines in {folder}.")
                lock.acquire(wait_s=math.inf)
        except LockUnsupportedError:
            say(f"{folder} lies on a file system without locks: other processes may build the same engines.")
        yield folder
    finally:
        lock.release()


def _open_folder(card: Card, say: Callable[[str], None]) -> tuple[Path, FileLock]:
    own, cache = engine_folders(card)
    try:
        return own, _open_lock(own)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    say(f"{own} cannot be written: the engines go into {cache}.")
    return cache, _open_lock(cache)


def _open_lock(folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "build.lock")

"""Collections of phantom exams as runs: one process or several shards write, and what was asked for is remembered.

`run.json` holds the settings of each collection of the folder. A collection grows and is completed by the same
settings; with others nothing is written unless it is to be replaced.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..imaging.atomic import remove_remains
from ..imaging.phantom.collection import Collection, read_marksheet, remove_exams
from ..imaging.phantom.dataset import write_exams
from .errors import RunFolderError
from .run_lock import RunLock
from .run_settings import RunSettings
from .seeds import Shard


def make_phantoms(
    collection: Collection,
    indices: Sequence[int],
    *,
    workers: int = 2,
    shard: Shard | None = None,
    resume: bool = False,
    overwrite: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Writes phantom exams while no other process writes to the folder; exams that are there, whole, are kept.

    Args:
        collection: What the exams are made with; its folder is made where missing.
        indices: Indices of the exams: with `shard`, those of the share.
        workers: Processes.
        shard: This process's share. Shards may write at the same time.
        resume: What is done anyway; not together with `overwrite`.
        overwrite: Remove the collection that is there first: the exams of this institution and seed, nothing else.
        warn: Called with a sentence that the user should see.

    Yields:
        The records of `write_exams`.

    Raises:
        InputError: See `write_exams`.
        RunFolderError: Another process is at work there, the folder holds another run, or the collection was made with
            other settings.
        OSError: The folder cannot be written or is full.
    """
    if resume and overwrite:
        raise RunFolderError("--resume and --overwrite exclude each other.", "Give one of them.")
    read_marksheet(collection.out)
    lock = RunLock(collection.out, shard, warn or (lambda sentence: None))
    try:
        _claim(collection, indices, shard, overwrite, alone=lock.alone)
        lock.end_setup()
        yield from write_exams(collection, indices, workers=workers)
    finally:
        lock.release()


def _claim(
    collection: Collection, indices: Sequence[int], shard: Shard | None, overwrite: bool, *, alone: bool
) -> None:
    """Compares the collection with what the folder remembers, removes what is to be replaced, and remembers it."""
    path = collection.out / "run.json"
    run = RunSettings(path, "phantom", {}, shard).read() or {}
    stored: Mapping[str, Any] = run.get("settings", {})
    if stored and stored.get("command") != "phantom":
        raise RunFolderError(
            f"{collection.out} holds a run of `ccella {stored.get('command')}`.", "Give another folder with -o."
        )
    remembered = dict(stored.get("collections", {}))
    collections = {**remembered, collection.name: collection.settings()}
    settings = RunSettings(path, "phantom", {"collections": collections}, shard)
    known = collection.name in remembered
    same = known and settings.difference() is None
    # Other shards of an overwriting run may have begun: then only this share is still the former run's.
    whole = shard is None or (alone and not same)
    if known and not same and not (overwrite and whole):
        settings.check()
    if not alone and run.get("shards") != settings.shards:
        raise RunFolderError(
            f"{run.get('shards')} shards are writing to {collection.out}, but this is one of {settings.shards}.",
            "Wait for them, or give the same number of shards.",
        )
    # Nobody else writes it now: whoever does holds the lock of the setup.
    remove_remains([path])
    if overwrite:
        remove_exams(collection, None if whole else indices)
    settings.write()

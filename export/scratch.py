"""Folders for files in the making that may be gigabytes: those of killed processes do not stay."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from ..imaging.locks import FileLock, LockUnsupportedError

PREFIX = ".export-"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yields an empty folder in `parent`, which is removed at the end; what killed processes left goes first.

    A process holds a lock beside its folder from before it makes it, so a folder whose lock is free is nobody's. Where
    the file system knows no locks nothing of others is removed.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        if folder.is_dir():
            _remove_if_dead(folder)
    own = parent / f"{PREFIX}{token_hex(4)}"
    lock = FileLock(_lock_path(own))
    try:
        with suppress(LockUnsupportedError):
            lock.acquire()
        own.mkdir()
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        _lock_path(own).unlink(missing_ok=True)
        lock.release()


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_if_dead(folder: Path) -> None:
    lock = FileLock(_lock_path(folder))
    try:
        if lock.acquire():
            shutil.rmtree(folder, ignore_errors=True)
            _lock_path(folder).unlink(missing_ok=True)
    except LockUnsupportedError:
        return
    finally:
        lock.release()

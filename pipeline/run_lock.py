"""Who may write to a run folder: one process, or the different shards of one run together."""

from collections.abc import Callable
from pathlib import Path

from ..imaging.locks import FileLock, LockUnsupportedError
from .errors import RunFolderError
from .seeds import Shard

SETUP_WAIT_S = 30.0


class RunLock:
    """The locks of one process on a run folder, below `<folder>/.ccella`.

    Args:
        folder: The run folder; made where missing.
        shard: The process's share of the run.
        warn: Told when the file system cannot lock.

    Attributes:
        alone: No other shard was at work when the lock was taken.

    Raises:
        RunFolderError: Another process holds the folder.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, shard: Shard | None, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.alone = True
        self._warn = warn
        self._held: list[FileLock] = []
        (folder / ".ccella").mkdir(parents=True, exist_ok=True)
        try:
            # Held only while the folder is set up, so that two shards that start together take turns.
            self._take("setup.lock", wait_s=SETUP_WAIT_S)
            self._take_run(shard)
        except BaseException:
            self.release()
            raise

    def _take_run(self, shard: Shard | None) -> None:
        run = self._file("run.lock")
        self.alone = self._acquire(run)
        if shard is None and not self.alone:
            raise self._taken()
        if shard is not None:
            # Shards hold it together, which keeps a run without shards out.
            if not self._acquire(run, shared=True):
                raise self._taken()
            self._take(f"shard{shard.suffix}.lock")

    def _file(self, name: str) -> FileLock:
        self._held.append(FileLock(self.folder / ".ccella" / name))
        return self._held[-1]

    def _take(self, name: str, wait_s: float = 0.0) -> None:
        if not self._acquire(self._file(name), wait_s=wait_s):
            raise self._taken()

    def _acquire(self, lock: FileLock, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        try:
            return lock.acquire(shared=shared, wait_s=wait_s)
        except LockUnsupportedError:
            self._warn(f"{self.folder} lies on a file system without locks: take care that no other run writes to it.")
            return True

    def _taken(self) -> RunFolderError:
        return RunFolderError(
            f"Another process is writing to {self.folder}.",
            "Wait for it, give another folder with -o, or share the work with --shard i/n.",
        )

    def end_setup(self) -> None:
        """Lets other shards set up."""
        self._held[0].release()

    def release(self) -> None:
        """Gives all locks back."""
        for lock in self._held:
            lock.release()

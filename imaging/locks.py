"""Locks on folders that several processes write to, held by the kernel: a killed process leaves none behind."""

import errno
import os
import time
from pathlib import Path

# Errors of file systems that know no locks (some cluster mounts).
UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


class LockUnsupportedError(OSError):
    """The file system cannot lock files."""


class FileLock:
    """An advisory lock on one file, through flock(2).

    Args:
        path: The lock file; made where missing and left in place, since removing it would race with another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Takes the lock, or turns a shared one into an exclusive one and back.

        Args:
            shared: Several processes may hold it so at the same time.
            wait_s: How long to try.

        Returns:
            Whether the lock is held now.

        Raises:
            LockUnsupportedError: The file system or platform has no such locks.
        """
        try:
            import fcntl
        except ImportError as error:
            raise LockUnsupportedError(errno.ENOTSUP, "this platform has no flock", str(self.path)) from error
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in UNSUPPORTED:
                    raise LockUnsupportedError(error.errno, os.strerror(error.errno), str(self.path)) from error
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    def release(self) -> None:
        """Gives the lock back; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""Files that appear whole or not at all.

Every writer goes through `atomic_path`: the data are written under a temporary name in the same directory, flushed
to the disk, and renamed. A killed run leaves at most a hidden `.<name>.<random>.part`, never a half file under the
final name.
"""

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Some libraries write files that only their owner may read; what is shared follows the user's own umask. It can be
# read only by setting it, so this is done once, before any thread could notice.
_UMASK = _read_umask()


def _sync(path: Path, flags: int) -> None:
    """Forces what was written to `path` down to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stem(path: Path) -> str:
    """How a temporary name of `path` begins; a long name is cut to stay inside the usual 255-byte limit."""
    return f".{path.name.encode()[:180].decode(errors='ignore')}."


def _temporary(path: Path) -> Path:
    """Names a hidden neighbour of `path`."""
    return path.with_name(f"{_stem(path)}{secrets.token_hex(4)}{PART_SUFFIX}")


def remove_remains(paths: Iterable[Path]) -> None:
    """Removes the temporary files of `paths` that killed processes left; no living process may be writing these."""
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(_stem(path))
    ending = re.compile("[0-9a-f]{8}" + re.escape(PART_SUFFIX))
    for folder, stems in folders.items():
        for file in folder.iterdir() if folder.is_dir() else ():
            match = ending.search(file.name)
            if match and match.end() == len(file.name) and file.name[: match.start()] in stems:
                file.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path that becomes `path` when the block ends well, and is removed when it does not.

    Args:
        path: Final path. Its directory is made where it is missing.

    Yields:
        A path in the same directory, so that the rename is atomic. The block must create the file.

    Raises:
        OSError: The directory cannot be written or is full.
        FileNotFoundError: The block ended without having written the temporary file.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(final)
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(final)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            # The user knows the file by its final name; a write that fails names none.
            error.filename = str(final)
        raise
    if os.name == "posix":
        # The rename itself lives in the directory and survives a power cut only once that is flushed too.
        _sync(final.parent, os.O_RDONLY)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` atomically. Raises `OSError` where it cannot."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 with its line ends unchanged, atomically. Raises `OSError` where it cannot."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, obj: Any, *, indent: int | None = 2) -> None:
    """Writes `obj` as strict JSON (no NaN or infinity) with a final line end, atomically.

    Args:
        path: Final path.
        obj: What `json` can express.
        indent: Spaces per level, or None for one line.

    Raises:
        ValueError: `obj` holds NaN or infinity, which JSON has no word for.
        TypeError: `obj` holds something that JSON cannot express.
        OSError: The file cannot be written.
    """
    write_text(path, json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")

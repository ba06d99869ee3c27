"""What tells one input file from another: its content, or cheaper, how it lies on disk."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def digest_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def digest_source(path: Path) -> str:
    """SHA-256 of an input: of a file's content, or of the names and contents of a folder's files (a DICOM series)."""
    if not path.is_dir():
        return digest_file(path)
    whole = hashlib.sha256()
    for file in _files(path):
        whole.update(f"{file.name}\0{digest_file(file)}\n".encode())
    return whole.hexdigest()


def digest_channels(files: Mapping[str, Path], channels: Iterable[str]) -> str:
    """SHA-256 of what some channels of an exam hold; where the files lie and what they are called is nothing to it."""
    whole = hashlib.sha256()
    for channel in channels:
        whole.update(f"{channel}\0{digest_source(files[channel])}\n".encode())
    return whole.hexdigest()


def stamp_source(path: Path) -> str:
    """Where an input lies, with size and time of change of every file, to see without reading that it is the same."""
    try:
        stats = [(file.name, file.stat()) for file in _files(path)]
    except OSError:
        # Reading it will say what is wrong.
        stats = []
    return "\n".join([str(path.resolve()), *(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}" for name, stat in stats)])


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]

"""Which files of a model are on this machine, and whether they are what card and lock file pin. Offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cache import snapshot_path
from .card import UNPINNED, FileRef, WeightsCard
from .loading import sha256_file
from .lock import hold_pins

OK = "ok"
MISSING = "missing"
DIFFERS = "differs"


@dataclass(frozen=True)
class FileState:
    """One file of a model on this machine.

    Attributes:
        part: The part it belongs to.
        file: What card and lock file say of it.
        path: Where it lies, or would lie.
        state: "ok", "missing", "differs" from its pin, or "unpinned": there, but nobody has stated a digest.
        sha256: Digest of its content; None where it is missing.
    """

    part: str
    file: FileRef
    path: Path
    state: str
    sha256: str | None


def verify(card: WeightsCard) -> Iterator[FileState]:
    """Hashes every file of a model, however large.

    Yields:
        The files in the card's order, each as soon as it is hashed.
    """
    for part in card.parts.values():
        for listed in part.public_files:
            file = hold_pins(listed)
            path = snapshot_path(file) if file.repo is not None else card.directory / file.path
            if not path.is_file():
                yield FileState(part.name, file, path, MISSING, None)
                continue
            found = sha256_file(path)
            pinned = file.sha256 != UNPINNED
            yield FileState(
                part.name, file, path, (OK if found == file.sha256 else DIFFERS) if pinned else UNPINNED, found
            )


def is_present(card: WeightsCard) -> bool:
    """Whether every Hub file of a model lies in the cache, without a look at its content."""
    files = [file for part in card.parts.values() for file in part.public_files if file.repo is not None]
    return all(snapshot_path(hold_pins(file)).is_file() for file in files)


def describe_pins(card: WeightsCard) -> str:
    """Who states the digests of a model's files: `card`, `lock 3` for three in the lock file, `unpinned 3`."""
    listed = [file for part in card.parts.values() for file in part.public_files]
    open_ones = [file for file in listed if file.sha256 == UNPINNED]
    held = sum(hold_pins(file).sha256 != UNPINNED for file in open_ones)
    counts = {"card": len(listed) - len(open_ones), "lock": held, "unpinned": len(open_ones) - held}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)

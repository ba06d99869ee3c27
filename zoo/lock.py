"""What no card could state before a first download: revisions and digests seen, licences accepted.

The lock file lies in the Hugging Face cache and goes where the cache goes. What it states is held from then on: a
later download of other bytes is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json
from .cache import cache_folder
from .card import UNPINNED, FileRef, WeightsCard
from .errors import CardError

SCHEMA = "ccella.lock/1"


@dataclass(frozen=True)
class Lock:
    """The lock file's content.

    Attributes:
        revisions: The commit that an unpinned repository was first pulled at, by repository.
        files: `sha256` and `size` of each file that was first seen without a pin, by `repo@revision/path`.
        licences: Ids of the licences that were accepted.
    """

    revisions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    licences: tuple[str, ...] = ()

    def hold(self, file: FileRef) -> FileRef:
        """The file with what the lock knows where the card says "unpinned"."""
        if file.repo is None:
            return file
        if file.revision == UNPINNED and file.repo in self.revisions:
            file = replace(file, revision=self.revisions[file.repo])
        known = self.files.get(file_key(file))
        if file.sha256 == UNPINNED and known is not None:
            file = replace(file, sha256=str(known["sha256"]), size=int(known["size"]))
        return file


def lock_path() -> Path:
    """Where the lock file lies."""
    return cache_folder() / "ccella.lock.json"


def file_key(file: FileRef) -> str:
    """The name of a Hub file in the lock."""
    return f"{file.repo}@{file.revision}/{file.path}"


def read_lock() -> Lock:
    """The lock file of the cache; an empty one where there is none yet.

    Raises:
        CardError: The file is not what this program writes.
    """
    path = lock_path()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}, not {SCHEMA!r}")
        lock = Lock(dict(document["revisions"]), dict(document["files"]), tuple(document["licences"]))
        for entry in lock.files.values():
            str(entry["sha256"]), int(entry["size"])
    except FileNotFoundError:
        return Lock()
    except (ValueError, KeyError, TypeError) as error:
        raise CardError(
            f"The lock file {path} cannot be read: {error}.",
            "Restore it from a backup, or delete it; the next `ccella zoo pull` then trusts what it finds.",
        ) from error
    return lock


def extend_lock(
    *,
    revisions: Mapping[str, str] = {},
    files: Sequence[FileRef] = (),
    licences: Sequence[str] = (),
) -> Lock:
    """Adds to the lock file what it does not state yet; what it states stays.

    Returns:
        The lock as it is now, which another process may have extended too.

    Raises:
        OSError: The cache cannot be written.
    """
    from huggingface_hub.utils import WeakFileLock

    path = lock_path()
    (path.parent / ".locks").mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.parent / ".locks" / "ccella.lock"):
        old = read_lock()
        seen = {file_key(file): {"sha256": file.sha256, "size": file.size} for file in files}
        accepted = tuple(dict.fromkeys((*old.licences, *licences)))
        new = Lock({**revisions, **old.revisions}, {**seen, **old.files}, accepted)
        if new != old:
            document = {"schema": SCHEMA, "revisions": new.revisions, "files": new.files, "licences": new.licences}
            write_json(path, document)
    return new


def hold_pins(file: FileRef) -> FileRef:
    """The file with what the lock file knows where the card says "unpinned"."""
    unpinned = file.repo is not None and UNPINNED in (file.revision, file.sha256)
    return read_lock().hold(file) if unpinned else file


def hub_files(card: WeightsCard) -> list[tuple[str, FileRef]]:
    """The card's files that lie on the Hub, with the names of their parts, as the lock holds them."""
    return [
        (part.name, hold_pins(file))
        for part in card.parts.values()
        for file in part.public_files
        if file.repo is not None
    ]

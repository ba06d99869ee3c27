"""Pulling a model: every public file at its commit into the cache, each hashed here, because the client does not."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..imaging.errors import InputError
from .cache import cache_folder, snapshot_path
from .card import UNPINNED, FileRef, Licence, WeightsCard
from .errors import AccessError, DigestMismatchError, WeightsMissingError
from .hub import RemoteRepo, cache_error, clear_partial, drop, fetch, read_repo
from .loading import sha256_file
from .lock import extend_lock, hub_files, read_lock


@dataclass(frozen=True)
class PulledFile:
    """One file after a pull.

    Attributes:
        part: The part it belongs to.
        file: The file with its commit, digest and size.
        path: Where it lies.
        fetched: Whether it was downloaded now; else it was there and its content was checked.
    """

    part: str
    file: FileRef
    path: Path
    fetched: bool


def accept_licence(card: WeightsCard, accepted: str | None, ask: Callable[[Licence], bool] | None) -> None:
    """Sees to it that a licence that limits use has been accepted once on this machine.

    Args:
        card: A model or a feature extractor.
        accepted: The licence id that the user accepts beforehand, or None.
        ask: Asks the user; None where nobody can be asked.

    Raises:
        InputError: `accepted` is not the model's licence.
        AccessError: The licence is not accepted.
    """
    licence = card.licence
    if accepted is not None and accepted != licence.id:
        raise InputError(
            f"{accepted!r} is not the licence of {card.id}, which is {licence.id!r}.",
            f"Read it, then give --accept-license {licence.id}.",
        )
    if not licence.restricted or licence.id in read_lock().licences:
        return
    if accepted is None and not (ask is not None and ask(licence)):
        raise AccessError(
            f"The licence of {card.id} limits its use and has not been accepted: {licence.name} ({licence.id}).",
            f"Read {licence.url or 'it'}, then run with --accept-license {licence.id}.",
        )
    try:
        extend_lock(licences=[licence.id])
    except OSError as error:
        raise cache_error(error) from error


def pull(card: WeightsCard, *, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> Iterator[PulledFile]:
    """Brings every public file of a model into the cache and checks its content.

    What is there already is hashed; a file with other content is fetched again. A digest that neither the card nor
    the lock file states is taken from what arrives, and recorded.

    Args:
        card: A model or a feature extractor.
        on_bytes: Told the bytes that have arrived and those that there will be.

    Yields:
        The files, each as soon as it is checked.

    Raises:
        WeightsMissingError: Offline, unreachable, cut off, or not on the Hub.
        AccessError: A token or an access is missing.
        DigestMismatchError: What arrived is not what the card or the lock file states; it was deleted.
        InputError: The cache cannot be written, or is too small.
    """
    files = hub_files(card)
    for repo in sorted({str(file.repo) for _, file in files}):
        clear_partial(repo)
    present = {position for position, (_, file) in enumerate(files) if _is_whole(file)}
    wanted = [file for position, (_, file) in enumerate(files) if position not in present]
    remote = {at: read_repo(*at) for at in sorted({_commit(file) for file in wanted})}
    total = sum(_check_offer(file, remote[_commit(file)]) for file in wanted)
    if wanted:
        _check_space(total)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_bytes(done, total)

    for position, (part, file) in enumerate(files):
        if position in present:
            path = snapshot_path(file)
            yield PulledFile(part, _record(file, file, path, None), path, fetched=False)
        else:
            offer = remote[_commit(file)]
            at = replace(file, revision=offer.revision)
            path = fetch(at, count)
            found = _check(at, path, offer.files[file.path].sha256)
            yield PulledFile(part, _record(file, at, path, found), path, fetched=True)


def _commit(file: FileRef) -> tuple[str, str]:
    return str(file.repo), str(file.revision)


def _is_whole(file: FileRef) -> bool:
    """Whether the cache holds the file with the content it should have; one with other content is removed."""
    path = snapshot_path(file)
    if file.revision == UNPINNED or not path.is_file():
        return False
    if file.sha256 == UNPINNED or sha256_file(path) == file.sha256:
        return True
    try:
        drop(path)
    except OSError as error:
        raise DigestMismatchError(
            f"{path} differs from its pin (SHA-256 {file.sha256}) and cannot be replaced: {error.strerror}.",
            "Have whoever owns the cache pull the model again.",
        ) from error
    return False


def _check_offer(file: FileRef, repo: RemoteRepo) -> int:
    """The file's size on the Hub; what differs from its pin is refused before 40 GB have been fetched in vain."""
    offered = repo.files.get(file.path)
    if offered is None:
        raise WeightsMissingError(
            f"{file.repo} has no file {file.path} at {repo.revision}.", "Check the card's repo, revision and path."
        )
    if offered.sha256 is not None and file.sha256 not in (UNPINNED, offered.sha256):
        raise DigestMismatchError(
            f"The Hub offers {file.path} of {file.repo} with SHA-256 {offered.sha256}; {file.sha256} is pinned.",
            "Nothing was fetched. Ask the publisher why a published commit has changed.",
        )
    if file.size not in (None, offered.size):
        raise DigestMismatchError(
            f"The Hub offers {file.path} of {file.repo} with {offered.size} bytes; {file.size} are pinned.",
            "Nothing was fetched. Ask the publisher why a published commit has changed.",
        )
    return offered.size


def _check_space(needed: int) -> None:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(error) from error
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"The Hugging Face cache {folder} has {free / 1e9:.2f} GB free; {needed / 1e9:.2f} GB are needed.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        )


def _check(file: FileRef, path: Path, offered: str | None) -> str:
    """The SHA-256 of what arrived; a file with other content than expected is deleted."""
    expected = offered if file.sha256 == UNPINNED else file.sha256
    found = sha256_file(path)
    if expected is not None and found != expected:
        drop(path)
        raise DigestMismatchError(
            f"{file.path} of {file.repo} arrived with SHA-256 {found}; expected {expected}.",
            "It was deleted. Pull again; if it stays so, do not trust the server or what lies between.",
        )
    return found


def _record(asked: FileRef, file: FileRef, path: Path, found: str | None) -> FileRef:
    """Writes down a commit and a digest that nobody had stated.

    Args:
        asked: The file as card and lock knew it before.
        file: The same with its commit.
        path: Where it lies.
        found: Its SHA-256 where that has just been computed.

    Returns:
        The file as card and lock know it now.
    """
    assert file.repo is not None
    revisions = {file.repo: str(file.revision)} if asked.revision == UNPINNED else {}
    if file.sha256 != UNPINNED and not revisions:
        return file
    seen = replace(file, sha256=found or sha256_file(path), size=path.stat().st_size)
    try:
        lock = extend_lock(revisions=revisions, files=[seen] if asked.sha256 == UNPINNED else [])
    except OSError as error:
        raise cache_error(error) from error
    held = lock.hold(file)
    if held.sha256 != seen.sha256:
        # Another process was first and saw something else.
        raise DigestMismatchError(
            f"{path} has SHA-256 {seen.sha256}; the lock file holds {held.sha256}.", "Pull the model again."
        )
    return held

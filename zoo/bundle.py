"""A model as one file, for hosts without a network: `zoo bundle` writes it, `zoo unbundle` checks and unpacks it.

The file is a tar: first `bundle.json`, which lists every file of the model with its digest, then the contents, named
by their digests. Nothing in the tar says where a content goes; only the checked list does.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..imaging.atomic import atomic_path
from ..imaging.errors import InputError
from .cache import cache_folder, repo_folder, snapshot_path
from .card import UNPINNED, FileRef, WeightsCard
from .errors import DigestMismatchError
from .loading import find_file, model_name, sha256_file
from .lock import extend_lock, hold_pins
from .registry import list_cards

SCHEMA = "ccella.bundle/1"
_LIST = "bundle.json"
_LIST_BYTES = 2**24
_CHUNK = 2**20
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Bundle:
    """What a bundle file holds.

    Attributes:
        model: Id of the model.
        licence: Of its weights: id, name, url.
        files: The files; those without a repository belong to the model folder, card.toml among them.
    """

    model: str
    licence: dict[str, str]
    files: tuple[FileRef, ...]

    @property
    def has_folder(self) -> bool:
        """Whether a model folder has to be written."""
        return any(file.repo is None for file in self.files)


class _HashingFile(io.RawIOBase):
    """A file that is hashed as it is written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._stream.write(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def write_bundle(card: WeightsCard, out: Path) -> tuple[Bundle, str]:
    """Writes every file of a model that is on this machine into one file; the same files give the same bytes.

    Args:
        card: A model or a feature extractor; parts without weights are left out, as in the card.
        out: The file.

    Returns:
        What it holds, and the SHA-256 of the whole file.

    Raises:
        WeightsMissingError, DigestMismatchError: A file is not on this machine, or not what is pinned.
        InputError: There is nothing to carry.
    """
    sources: dict[str, Path] = {}
    files: list[FileRef] = []
    listed: list[tuple[FileRef, Path]] = []
    remedy = f"With network access run: ccella zoo pull {model_name(card)}"
    for part in card.parts.values():
        listed += [(file, find_file(file, card.directory, f"{card.id},", remedy)) for file in part.public_files]
    if any(file.repo is None for file, _ in listed) or not card.directory.is_relative_to(Path(__file__).parent):
        listed.insert(0, (FileRef("card.toml", None, None, UNPINNED, None), card.directory / "card.toml"))
    if not listed:
        raise InputError(f"{card.id} has no weights to carry.", "The other host needs none either.")
    for file, path in listed:
        found = sha256_file(path)
        held = hold_pins(file)
        if held.sha256 not in (UNPINNED, found):
            raise DigestMismatchError(f"{path} has SHA-256 {found}; {held.sha256} is pinned.", "Pull or copy it again.")
        sources[found] = path
        revision = _revision(held, path)
        files.append(FileRef(file.path, file.repo, revision, found, path.stat().st_size))
    terms = {"id": card.licence.id, "name": card.licence.name, "url": card.licence.url}
    bundle = Bundle(card.id, terms, tuple(files))
    with atomic_path(out) as temporary, temporary.open("wb") as raw:
        hashed = _HashingFile(raw)
        with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            text = json.dumps({"schema": SCHEMA, **asdict(bundle)}, ensure_ascii=False, indent=1).encode()
            archive.addfile(_member(_LIST, len(text)), io.BytesIO(text))
            for digest, path in sorted(sources.items()):
                with path.open("rb") as stream:
                    archive.addfile(_member(digest, path.stat().st_size), stream)
    return bundle, hashed.hexdigest()


def _revision(file: FileRef, path: Path) -> str | None:
    """The commit of a cached file: stated, or the folder of the snapshot it lies in."""
    if file.repo is None or file.revision != UNPINNED:
        return file.revision
    return path.relative_to(repo_folder(file.repo) / "snapshots").parts[0]


def read_bundle(source: Path) -> Bundle:
    """The list of a bundle file, checked; the contents are not looked at.

    Raises:
        InputError: The file does not exist or is no bundle.
    """
    try:
        with source.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
            return _read_list(archive, source)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {source}.", "Give a file that `ccella zoo bundle` wrote.") from error
    except tarfile.TarError as error:
        raise _no_bundle(source, str(error)) from error


def unpack_bundle(
    source: Path, out: Path | None = None, *, sha256: str | None = None
) -> Iterator[tuple[FileRef, Path]]:
    """Brings a bundle's files to where they belong: Hub files into the cache, the others into a model folder.

    Args:
        source: A file that `write_bundle` made.
        out: The model folder; needed where the bundle holds one.
        sha256: What the whole file must hash to.

    Yields:
        Each file with the path it got, after all contents have been checked.

    Raises:
        InputError: The file is no bundle, `out` is missing, or it holds another model.
        DigestMismatchError: A content is cut or changed, or is not what a card or the lock file pins.
    """
    bundle = read_bundle(source)
    if bundle.has_folder and out is None:
        raise InputError(f"{source} holds a model folder of {bundle.model}.", "Say where to with -o DIR.")
    if out is not None and (out / "card.toml").exists():
        raise InputError(f"{out} already holds a model.", "Choose another folder with -o.")
    if sha256 is not None and (found := sha256_file(source)) != sha256.lower():
        raise DigestMismatchError(f"{source} has SHA-256 {found}, not {sha256}.", "Copy the file again.")
    _check_pins(bundle)
    store = cache_folder() if out is None else out
    scratch = store / ".unbundle"
    with ExitStack() as stack:
        if out is None:
            stack.enter_context(_only_one(store))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        _unpack(source, bundle, scratch)
        # The card comes last: a killed run leaves no folder that looks like a model.
        for file in sorted(bundle.files, key=lambda file: file.path == "card.toml"):
            assert file.sha256 is not None
            target = snapshot_path(file) if file.repo is not None else (out or store) / file.path
            _place(scratch / file.sha256, target)
            yield file, target
    remote = [file for file in bundle.files if file.repo is not None]
    if remote:
        extend_lock(revisions={str(file.repo): str(file.revision) for file in remote}, files=remote)


def _unpack(source: Path, bundle: Bundle, scratch: Path) -> None:
    """Writes the contents into `scratch` under their digests, each checked."""
    sizes = {file.sha256: file.size for file in bundle.files}
    # A killed run may have left some.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with source.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
            _read_list(archive, source)
            while (member := archive.next()) is not None:
                if not member.isreg() or sizes.get(member.name) != member.size:
                    raise _no_bundle(source, f"it holds {member.name!r}, which its list does not know")
                stream = archive.extractfile(member)
                assert stream is not None
                found = _copy_hashed(stream, scratch / member.name)
                if found != member.name:
                    raise DigestMismatchError(
                        f"{source} holds {member.name} with SHA-256 {found}.", "The file was changed: copy it again."
                    )
                del sizes[member.name]
    except tarfile.TarError as error:
        raise DigestMismatchError(f"{source} ends too early: {error}.", "Copy the file again.") from error
    if sizes:
        raise DigestMismatchError(f"{source} ends too early: {len(sizes)} files are missing.", "Copy the file again.")


def _only_one(cache: Path) -> AbstractContextManager[Any]:
    """The lock of whoever unpacks into a cache."""
    from huggingface_hub.utils import WeakFileLock

    (cache / ".locks").mkdir(parents=True, exist_ok=True)
    return WeakFileLock(cache / ".locks" / "ccella-unbundle.lock")


def _copy_hashed(stream: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _place(content: Path, target: Path) -> None:
    """Puts a checked content under its name; what is there with the same content stays."""
    if target.is_file() and sha256_file(target) == content.name:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        try:
            os.link(content, temporary)
        except OSError:
            # The cache may lie on another disk than the model folder.
            shutil.copyfile(content, temporary)


def _read_list(archive: tarfile.TarFile, source: Path) -> Bundle:
    member = archive.next()
    if member is None or member.name != _LIST or not member.isreg() or member.size > _LIST_BYTES:
        raise _no_bundle(source, f"it does not begin with {_LIST}")
    stream = archive.extractfile(member)
    assert stream is not None
    try:
        document = json.loads(stream.read())
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}, not {SCHEMA!r}")
        files = tuple(_parse_file(row) for row in document["files"])
        return Bundle(str(document["model"]), dict(document["licence"]), files)
    except (ValueError, KeyError, TypeError) as error:
        raise _no_bundle(source, str(error)) from error


def _parse_file(row: dict[str, Any]) -> FileRef:
    """One entry of the list; anything that could lead out of cache or folder is refused."""
    file = FileRef(str(row["path"]), row["repo"], row["revision"], str(row["sha256"]), int(row["size"]))
    parts = Path(file.path).parts
    if not parts or file.path.startswith("/") or ".." in parts or "\\" in file.path or "\0" in file.path:
        raise ValueError(f"the path {file.path!r} leads out of the model")
    if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise ValueError(f"{file.sha256!r} is no SHA-256")
    if file.repo is not None and not (
        _REPO.fullmatch(str(file.repo)) and re.fullmatch(r"[0-9a-f]{40}", str(file.revision))
    ):
        raise ValueError(f"{file.repo!r} at {file.revision!r} is no repository at a commit")
    return file


def _check_pins(bundle: Bundle) -> None:
    """Compares the list with what the cards and the lock file of this machine state."""
    pins: dict[tuple[str | None, str | None, str], str] = {
        (held.repo, held.revision, held.path): held.sha256
        for card in list_cards()
        for part in card.parts.values()
        for held in map(hold_pins, part.files)
        if held.repo is not None and held.sha256 != UNPINNED
    }
    for file in bundle.files:
        bare = FileRef(file.path, file.repo, file.revision, UNPINNED, None)
        pinned = pins.get((file.repo, file.revision, file.path), hold_pins(bare).sha256)
        if pinned not in (UNPINNED, file.sha256):
            raise DigestMismatchError(
                f"The bundle has {file.path} of {file.repo} with SHA-256 {file.sha256}; {pinned} is pinned.",
                "Ask whoever made the bundle which file they have.",
            )


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member without times and owners, which would make two bundles of one model differ."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info


def _no_bundle(source: Path, why: str) -> InputError:
    return InputError(f"{source} is no bundle of ccella: {why}.", "Give a file that `ccella zoo bundle` wrote.")

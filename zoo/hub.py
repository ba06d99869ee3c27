"""The Hub through huggingface_hub: what a repository holds, one file into the cache, and errors in plain words."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from .cache import cache_folder, repo_folder
from .card import UNPINNED, FileRef
from .errors import AccessError, WeightsMissingError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub says of a file: its size, and its SHA-256 where it is stored as a large file."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class RemoteRepo:
    """What the Hub says of a repository at one commit."""

    revision: str
    files: dict[str, RemoteFile]


def read_repo(repo: str, revision: str) -> RemoteRepo:
    """The files of a repository at a commit; that of `main` when the revision is "unpinned".

    Raises:
        WeightsMissingError, AccessError: See `plain_errors`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(library_name="ccella")
    with plain_errors(repo):
        # Asked first and once: a listing would be tried again for half a minute where there is no network.
        info = api.model_info(repo, revision=None if revision == UNPINNED else revision)
        revision = str(info.sha)
        entries = api.list_repo_tree(repo, recursive=True, revision=revision)
        files = {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if isinstance(entry, RepoFile)
        }
    return RemoteRepo(revision, files)


def fetch(file: FileRef, on_bytes: Callable[[int], None]) -> Path:
    """Downloads one file into the cache and returns its path there; its content is not checked yet.

    Args:
        file: A file with a repository and a commit.
        on_bytes: Told the number of bytes that have come in since the last call.

    Raises:
        WeightsMissingError, AccessError, InputError: See `plain_errors`.
    """
    from huggingface_hub import hf_hub_download

    assert file.repo is not None
    with plain_errors(file.repo, file.path):
        return Path(
            hf_hub_download(
                file.repo, file.path, revision=file.revision, library_name="ccella", tqdm_class=_counter(on_bytes),
                cache_dir=cache_folder(),
            )
        )  # fmt: skip


def drop(path: Path) -> None:
    """Removes a file from the cache: its entry in the snapshot and the blob behind it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.is_relative_to(cache_folder().resolve()):
        blob.unlink(missing_ok=True)


def clear_partial(repo: str) -> int:
    """Deletes what killed downloads of a repository left behind, and returns the number of bytes set free.

    huggingface_hub holds a lock while it downloads; a partial file whose lock is free belongs to nobody.
    """
    from huggingface_hub.utils import WeakFileLock

    locks = cache_folder() / ".locks" / repo_folder(repo).name
    freed = 0
    for partial in sorted((repo_folder(repo) / "blobs").glob("*.incomplete")):
        lock = locks / f"{partial.name.split('.')[0]}.lock"
        try:
            with WeakFileLock(lock, timeout=0.05):
                freed += partial.stat().st_size
                partial.unlink()
        except OSError:
            # In use (a TimeoutError), already gone, or in a cache that may only be read: none of our business.
            continue
    return freed


@contextmanager
def plain_errors(repo: str, path: str | None = None) -> Iterator[None]:
    """Turns what huggingface_hub raises into errors of ours.

    Raises:
        WeightsMissingError: Offline, unreachable, cut off, or no such repository, revision or file.
        AccessError: A token is missing, wrong or not enough, or the repository is gated.
        InputError: The cache cannot be written, or is full.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (OSError, HTTPError, HFValidationError, ValueError) as error:
        name = f"{path} of {repo}" if path else repo
        raise _plain(error, repo, name) from error


def _plain(error: Exception, repo: str, name: str) -> Exception:
    from huggingface_hub import constants, errors

    causes = list(_chain(error))
    for cause in causes:
        number = getattr(cause, "errno", None)
        # A firewall may answer a connection with EACCES too: only errors of the file system name a file.
        unwritable = number in _UNWRITABLE and getattr(cause, "filename", None) is not None
        if number in _FULL or unwritable:
            assert isinstance(cause, OSError)
            return cache_error(cause)
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return WeightsMissingError(
                f"{name} is not in the cache, and HF_HUB_OFFLINE forbids fetching it.",
                "Unset HF_HUB_OFFLINE, or bring the model with `ccella zoo bundle` and `ccella zoo unbundle`.",
            )
    for cause in causes:
        answer = _plain_answer(cause, repo, name)
        if answer is not None:
            return answer
    if "onsistency check failed" in str(error):
        return WeightsMissingError(f"{name} arrived incomplete from {constants.ENDPOINT}.", "Run the same again.")
    last = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    return WeightsMissingError(
        f"{name} could not be fetched from {constants.ENDPOINT}: {last[:200]}",
        "Check the network, HF_ENDPOINT and the proxy variables, then run the same again; what is done is kept.",
    )


def _plain_answer(error: Exception, repo: str, name: str) -> Exception | None:
    """What an answer of the server means; None when the error is not an answer."""
    from huggingface_hub import constants, errors

    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status = error.response.status_code if error.response is not None else 0
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return AccessError(
            f"{repo} is gated: its owner gives access to named accounts only.",
            f"Ask for access on {page}, then set HF_TOKEN to a token of that account.",
        )
    if status == 401:
        return AccessError(
            f"The Hub answered 401 for {name}: the token is missing or wrong, or there is no such repository.",
            f"Set HF_TOKEN to a valid token, and check that {page} exists.",
        )
    if status == 403:
        return AccessError(f"The Hub answered 403 for {name}: the token is not allowed to read it.", "Check HF_TOKEN.")
    if isinstance(
        error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError
    ):
        what = "revision" if isinstance(error, errors.RevisionNotFoundError) else "file"
        what = "repository" if isinstance(error, errors.RepositoryNotFoundError) else what
        return WeightsMissingError(
            f"The Hub answered 404 for {name}: there is no such {what}.", "Check the card's repo, revision and path."
        )
    return WeightsMissingError(f"The Hub answered {status} for {name}.", "Try again later; what is done is kept.")


def cache_error(error: OSError) -> InputError:
    """What to tell the user of a cache that cannot be written."""
    folder = cache_folder()
    if error.errno in _FULL:
        return InputError(
            f"The Hugging Face cache {folder} is full: {error.strerror}.",
            "Free some space, or set HF_HOME to a folder on a larger disk; what is done is kept.",
        )
    return InputError(
        f"The Hugging Face cache {folder} cannot be written: {error.strerror}.",
        "Set HF_HOME to a folder that you may write to, or have the model pulled by whoever owns the cache.",
    )


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """An error and what it came from, the first cause last."""
    seen: set[int] = set()
    while isinstance(error, Exception) and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _counter(on_bytes: Callable[[int], None]) -> type[Any]:
    """A silent progress bar that passes on how many bytes came in."""
    from huggingface_hub.utils import tqdm

    class Counter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The second of the two bars of a chunked transfer counts the same bytes before they are put together.
            self._counts = not str(kwargs.get("desc", "")).endswith("downloading bytes")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                on_bytes(int(n or 0))

    return Counter

"""The Hugging Face cache on this machine: where a file of a card lies. Nothing here opens a connection."""

import os
from pathlib import Path

from .card import UNPINNED, FileRef
from .errors import WeightsMissingError


def cache_folder() -> Path:
    """The cache of huggingface_hub, by the same variables: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`.

    huggingface_hub itself takes half a second to import, and `zoo list` has to feel instant.
    """
    home = os.environ.get("HF_HOME") or os.path.join(  # noqa: PTH118 - expanded below, as huggingface_hub does
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(folder)).expanduser()


def repo_folder(repo: str) -> Path:
    """The folder of a model repository in the cache."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshot_path(file: FileRef) -> Path:
    """Where a Hub file lies once it is in the cache; a file without a revision is looked up under `main`."""
    assert file.repo is not None
    folder = repo_folder(file.repo)
    revision = file.revision
    if revision == UNPINNED or revision is None:
        main = folder / "refs" / "main"
        revision = main.read_text(encoding="utf-8").strip() if main.is_file() else UNPINNED
    return folder / "snapshots" / revision / file.path


def find_cached(file: FileRef, owner: str, remedy: str) -> Path:
    """The file's path in the Hugging Face cache.

    Args:
        file: A file with a repository.
        owner: "model, part" for messages.
        remedy: What to run where it is missing.

    Raises:
        WeightsMissingError: The file is not in the cache at the card's revision.
    """
    path = snapshot_path(file)
    if path.is_file():
        return path
    raise WeightsMissingError(
        f"{owner} needs {file.path} of {file.repo}, which is not in the Hugging Face cache {cache_folder()}.", remedy
    )

"""Files of a model in the Hugging Face cache. Nothing here opens a connection."""

from pathlib import Path

from .card import UNPINNED, FileRef
from .errors import WeightsMissingError


def find_cached(file: FileRef, owner: str) -> Path:
    """The file's path in the Hugging Face cache.

    `HF_HOME` and `HF_HUB_CACHE` are honoured by huggingface_hub itself.

    Args:
        file: A file with a repository.
        owner: "model, part" for messages.

    Raises:
        WeightsMissingError: The file is not in the cache at the card's revision.
    """
    from huggingface_hub import try_to_load_from_cache

    assert file.repo is not None
    revision = None if file.revision == UNPINNED else file.revision
    found = try_to_load_from_cache(file.repo, file.path, revision=revision)
    if isinstance(found, str):
        return Path(found)
    pin = f" --revision {revision}" if revision else ""
    raise WeightsMissingError(
        f"{owner} needs {file.path} of {file.repo}, which is not in the Hugging Face cache on this machine.",
        f"With network access run: hf download {file.repo} {file.path}{pin}",
    )

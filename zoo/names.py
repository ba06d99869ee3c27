"""Names of models: `family`, `family/variant` or a directory, with `@revision` where weights come from the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import UnknownModelError

_ID = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)?")


@dataclass(frozen=True)
class ModelName:
    """A parsed name.

    Attributes:
        id: The zoo's id, or None when the name is a directory.
        directory: The directory, or None when the name is an id.
        revision: What followed `@`, or None.
    """

    id: str | None
    directory: Path | None
    revision: str | None


def parse_model_name(text: str, known: set[str]) -> ModelName:
    """Reads a model's name.

    Args:
        text: What the user wrote. A directory is written with a leading `.`, `/` or `~`, or ends in `/`; a bare name
            is an id.
        known: The ids the zoo has.

    Raises:
        UnknownModelError: The name is empty, malformed, or both an id of the zoo and a directory here.
    """
    name, _, revision = text.partition("@")
    if not name or (revision == "" and "@" in text):
        raise UnknownModelError(f"{text!r} is not a model name.", "Write family, family/variant or ./directory.")
    looks_like_path = name.startswith((".", "/", "~")) or name.endswith("/")
    directory = Path(name).expanduser()
    if looks_like_path:
        if revision:
            raise UnknownModelError(
                f"{text!r} asks for a revision of a directory.", f"Write {name} alone: directories have no revisions."
            )
        return ModelName(None, directory, None)
    is_folder = (directory / "card.toml").is_file()
    if name in known and is_folder:
        raise UnknownModelError(
            f"{name!r} is both a model of the zoo and a model folder in the working directory.",
            f"Write ./{name} for the folder, or run from another directory for the zoo's model.",
        )
    if is_folder and not revision:
        return ModelName(None, directory, None)
    if not _ID.fullmatch(name):
        raise UnknownModelError(
            f"{text!r} is not a model name and no model folder is there.", "`ccella zoo list` shows the models."
        )
    return ModelName(name, None, revision or None)

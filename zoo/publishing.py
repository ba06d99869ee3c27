"""Uploads a model folder to the Hub: the card, the files that it names, and a README made from it."""

from dataclasses import dataclass
from pathlib import Path

from ..imaging.errors import InputError
from .card import UNPINNED, Card, read_card
from .errors import AccessError, DigestMismatchError, OfflineError, UnknownModelError, ZooError
from .loading import part_paths, sha256_file
from .modelcard import describe_model

TOKEN_REMEDY = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."  # noqa: S105 - a sentence


@dataclass(frozen=True)
class Upload:
    """What is, or would be, uploaded.

    Attributes:
        card: Of the model.
        files: Paths on this machine by their names in the repository; README.md is made and has none.
        readme: Text of README.md.
    """

    card: Card
    files: dict[str, Path]
    readme: str

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files.values()) + len(self.readme.encode())


def prepare_upload(folder: Path, repo: str) -> Upload:
    """Collects what a model folder has to publish, and checks every file against the card.

    Nothing else in the folder goes along: `training/` holds checkpoints, and pictures of the exams that were trained
    on.

    Raises:
        UnknownModelError: The folder has no card.
        WeightsMissingError, DigestMismatchError: A file is missing, or not what the card pins.
        CardError: The card cannot be read.
    """
    if not (folder / "card.toml").is_file():
        raise UnknownModelError(f"{folder} is not a model folder: it has no card.toml.", "Give a model folder.")
    card = read_card(folder / "card.toml")
    files = {"card.toml": folder / "card.toml"}
    for part in card.parts.values():
        local = [file for file in part.files if file.repo is None]
        if not local:
            continue  # parts on the Hub stay where they are
        part_paths(card, part.name)
        for file in local:
            path = folder / file.path
            # Whoever publishes a file vouches for it, so the largest ones are hashed too.
            if file.sha256 != UNPINNED and sha256_file(path) != file.sha256:
                raise DigestMismatchError(f"{path} is not what the card pins.", "Train or import that part again.")
            files[file.path] = path
    return Upload(card, files, describe_model(card, repo))


def push_model(upload: Upload, repo: str, *, public: bool = False, message: str | None = None) -> str:
    """Uploads a model in one commit; the repository is made where it is missing.

    `HF_ENDPOINT` and `HF_TOKEN` are honoured by huggingface_hub itself.

    Args:
        upload: See `prepare_upload`.
        repo: `owner/name`.
        public: Whether a new repository can be seen by everybody; one that is there keeps its visibility.
        message: Of the commit.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        AccessError: No token, or one that may not write there.
        UnknownModelError: There is no such owner or repository.
        InputError: The name of the repository or the model's metadata are refused.
        OfflineError: The Hub cannot be reached, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    api = HfApi(library_name="ccella")
    operations = [CommitOperationAdd(name, path) for name, path in upload.files.items()]
    operations.append(CommitOperationAdd("README.md", upload.readme.encode()))
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message=message or f"Upload {upload.card.id}")
    except HfHubHTTPError as error:
        raise _translate(error.response.status_code, repo, str(error)) from error
    except HFValidationError as error:
        raise InputError(f"{repo!r} cannot be the name of a repository.", "Write OWNER/NAME.") from error
    except OfflineModeIsEnabled as error:
        raise OfflineError("HF_HUB_OFFLINE is set, so nothing is uploaded.", "Unset it and push again.") from error
    except (HTTPError, ConnectionError) as error:
        raise OfflineError(
            f"The Hub at {api.endpoint} cannot be reached ({type(error).__name__}).",
            "Check the network and HF_ENDPOINT, then push again: files that arrived are not sent twice.",
        ) from error
    except ValueError as error:
        raise InputError(f"{repo} refused the upload: {error}", "Correct the card.") from error
    return str(commit.oid)


def _translate(status: int, repo: str, detail: str) -> ZooError:
    """The Hub's refusal as an error of ours."""
    if status == 401:
        return AccessError(f"{repo} takes uploads with a token only, and none was accepted (401).", TOKEN_REMEDY)
    if status == 403:
        return AccessError(f"The token in use may not write to {repo} (403).", TOKEN_REMEDY)
    if status == 404:
        return UnknownModelError(f"There is no repository {repo}, nor may it be made (404).", "Check owner and name.")
    first = " ".join(detail.split())[:200]
    return OfflineError(f"The Hub answered {status} for {repo}: {first}", "Try again later.")

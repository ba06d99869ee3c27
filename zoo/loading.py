"""From a card to networks with weights: files are found, checked against their pins and loaded strictly."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from .cache import find_cached
from .card import UNPINNED, Card, FileRef, WeightsCard
from .errors import CardError, DigestMismatchError, WeightsMissingError
from .family import load_family
from .lock import hold_pins

if TYPE_CHECKING:
    import torch

    from .families.ccella.text import TextEncoder

# Hashing 40 GB at every start would take minutes; files up to this size are hashed each time, larger ones by size
# alone.
HASH_LIMIT_BYTES = 256 * 2**20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def part_paths(card: Card, name: str) -> list[Path]:
    """The files of a part on this machine, each checked against its pin.

    Args:
        card: A model.
        name: One of its parts.

    Raises:
        CardError: The card has no such part.
        WeightsMissingError: The part has no public weights, or a file is not on this machine.
        DigestMismatchError: A file's size or content is not what the card pins.
    """
    part = card.part(name)
    if not part.files:
        remedy = f"Train one with `ccella train` (template {card.id})"
        if part.checkpoint is not None:
            remedy = f"With network access run: ccella zoo pull {model_name(card)} -o DIR, then name DIR as the model."
        elif card.generation is None:
            remedy += "."
        else:
            remedy += ", convert one with `ccella zoo import`, or use the bundled ccella-pp/phantom."
        raise WeightsMissingError(
            f"Model {card.id} has no weights for its {name}: {part.note or 'none are public.'}", remedy
        )
    remedy = f"With network access run: ccella zoo pull {model_name(card)}"
    return [find_file(file, card.directory, f"Model {card.id}, part {name},", remedy) for file in part.files]


def model_name(card: WeightsCard) -> str:
    """How a user names the model: the id of a card that ships with the package, else its folder."""
    return card.id if is_installed(card) else str(card.directory)


def is_installed(card: WeightsCard) -> bool:
    """Whether a model's folder is part of the installed package, which stays as it is."""
    return card.directory.resolve().is_relative_to(Path(__file__).resolve().parent)


def find_file(file: FileRef, directory: Path, owner: str, remedy: str | None = None) -> Path:
    """A file on this machine, checked against its pin.

    Args:
        file: What a card says of it.
        directory: The card's folder, for a file without a repository.
        owner: Whose file it is, for messages.
        remedy: What to run where a Hub file is not in the cache.

    Raises:
        WeightsMissingError: The file is not on this machine.
        DigestMismatchError: Its size or content is not what the card pins.
    """
    if file.repo is not None:
        file = hold_pins(file)
        pin = "" if file.revision == UNPINNED else f" --revision {file.revision}"
        hand = f"With network access run: hf download {file.repo} {file.path}{pin}"
        path = find_cached(file, owner, remedy or hand)
    else:
        path = directory / file.path
        if not path.is_file():
            raise WeightsMissingError(
                f"{owner} needs {path}, which does not exist.", "Copy the whole model folder, or train the part again."
            )
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise DigestMismatchError(
            f"{path} has {size} bytes; the card pins {file.size}.",
            "The file is cut or changed: fetch or copy it again.",
        )
    if file.sha256 != UNPINNED and size <= HASH_LIMIT_BYTES:
        found = sha256_file(path)
        if found != file.sha256:
            raise DigestMismatchError(
                f"{path} has SHA-256 {found}; the card pins {file.sha256}.",
                "The file is not the one the card speaks of: fetch or copy it again.",
            )
    return path


def part_digests(card: Card) -> dict[str, str]:
    """SHA-256 of every file that card or lock file pin, by `part/path`, for sidecars."""
    return {f"{part.name}/{file.path}": hold_pins(file).sha256 for part in card.parts.values() for file in part.files}


def load_part(
    card: Card, name: str, *, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "torch.nn.Module":
    """Builds a part and loads its weights with every name and shape required to match.

    Args:
        card: A model.
        name: One of its parts, except a text encoder (see `load_text_encoder`).
        device: Where the part goes.
        dtype: Floating-point type of the weights; float32 when None. Stored half-precision weights are widened.

    Returns:
        The network in evaluation mode, its parameters frozen.

    Raises:
        WeightsMissingError, DigestMismatchError: See `part_paths`.
        CardError: The weights are not safetensors, or do not fit the network the card describes.
    """
    import torch
    from safetensors.torch import load_file

    paths = part_paths(card, name)
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        if path.suffix != ".safetensors":
            raise CardError(
                f"{path} is not a safetensors file; nothing else is read at run time.",
                "Convert it once to a model folder of safetensors.",
            )
        state |= load_file(path)
    network = load_family(card.family).build(card.part(name))
    try:
        network.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:400]
        raise CardError(
            f"The weights of {card.id}, part {name}, do not fit its configuration: {detail}",
            f"Compare the files {[str(path) for path in paths]} with the card's parts.{name}.config.",
        ) from error
    return network.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)


def load_text_encoder(card: Card, *, device: str = "cpu") -> "TextEncoder":
    """Loads the text encoder and its tokenizer from the card's folder or the Hub cache.

    Raises:
        WeightsMissingError, DigestMismatchError, CardError: As `load_part`.
    """
    part = card.part("text_encoder")
    folders = {path.parent for path in part_paths(card, "text_encoder")}
    if len(folders) != 1:
        raise CardError(
            f"The text encoder of {card.id} lies in {len(folders)} folders.",
            "Keep its files in one folder of the card.",
        )
    encoder: TextEncoder = load_family(card.family).TextEncoder.from_folder(
        folders.pop(), window=int(part.config.get("window", 512)), device=device,
        dtype=part.config.get("dtype", "float32"),
    )  # fmt: skip
    return encoder

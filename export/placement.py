"""Which model folder an exported graph goes into."""

from pathlib import Path

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.folder import write_model_folder
from ..zoo.loading import is_installed
from ..zoo.registry import find_card


def export_words(card: Card) -> str:
    """How a model is exported, for messages; what is part of the installation goes into a copy."""
    if not is_installed(card):
        return f"ccella export {card.directory}"
    return f"ccella export {card.id} -o ./{card.directory.name}"


def prepare_folder(card: Card, out: Path | None) -> Card:
    """The model whose folder takes the exported graphs.

    Args:
        card: The model.
        out: A model folder, made as a copy of the model where it is missing; None for the model's own.

    Returns:
        The card in that folder.

    Raises:
        InputError: The model is part of the installation and no folder was given, or the folder holds other weights.
    """
    if out is None:
        if is_installed(card):
            raise InputError(
                f"Model {card.id} is part of the installation, which stays as it is.",
                "Give a folder for a copy of the model with -o DIR, and use it with --model ./DIR",
            )
        return card
    if (out / "card.toml").is_file():
        other = find_card(f"{out}" if out.is_absolute() else f"./{out}")
        if {name: part.files for name, part in other.parts.items()} != {n: p.files for n, p in card.parts.items()}:
            raise InputError(f"{out} holds model {other.id} with other weights than {card.id}.", "Give another folder.")
        return other
    local = [name for name, part in card.parts.items() if part.files and all(file.repo is None for file in part.files)]
    return write_model_folder(out, card, copy_parts=local)

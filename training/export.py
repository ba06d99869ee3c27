"""From a training run to a model folder, and from a card to the network that training starts with."""

import copy
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.folder import DEPENDENCIES, dependents, folder_card, write_model_folder
from ..zoo.loading import is_installed, load_part, part_digests, part_paths, sha256_file
from .config import LoopTraining, plain_options
from .processes import settle_precision
from .randomness import NETWORK, derive_seed, scoped_seed
from .task import Log, Progress

WORDS = ("title", "description", "intended_use")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def initial_network(card: Card, part: str, options: LoopTraining) -> nn.Module:
    """The network that training starts with, trainable: random weights from the seed, or those of the card."""
    with scoped_seed(derive_seed(options.seed, NETWORK)):
        network: nn.Module = (
            load_part(card, part) if options.initial == "card" else load_family(card.family).build(card.part(part))
        )
    return network.train().requires_grad_(True)


def export_model(
    folder: Path,
    card: Card,
    part: str,
    weights: Mapping[str, Tensor],
    options: LoopTraining,
    *,
    updates: Mapping[str, Any],
) -> Card:
    """Writes a trained part, in the type the options name, into a model folder.

    The template's other parts come along where the folder has none of its own, but for those that were trained with
    other weights of this part. A folder that holds these very weights already is left as it is.
    """
    dtype = DTYPES[options.weights_dtype]
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    there = folder_card(folder)
    if there is not None and _holds(there, part, weights):
        return there
    return write_model_folder(
        folder, card, parts={part: weights}, copy_parts=companion_parts(card, part, folder),
        drop=dependents(card, part), updates=_own_words(card, there, updates),
    )  # fmt: skip


def export_text_encoder(folder: Path, card: Card, made: Path, *, updates: Mapping[str, Any]) -> Card:
    """Takes a text encoder's files into a model folder, with the rules of `export_model`.

    Args:
        folder: The model folder.
        card: The template.
        made: Folder with the encoder's files; `pretraining.json` only tells of the run.
        updates: Values to set in the card.
    """
    part = "text_encoder"
    there = folder_card(folder)
    if there is not None and part in there.parts:
        files = there.parts[part].files
        old = {Path(file.path).name: file.sha256 for file in files if (folder / file.path).is_file()}
        new = {path.name: sha256_file(path) for path in made.iterdir()}
        for digests in (old, new):
            digests.pop("pretraining.json", None)
        if old == new:
            return there
    return write_model_folder(
        folder, card, text_encoder=made, copy_parts=companion_parts(card, part, folder), drop=dependents(card, part),
        updates=_own_words(card, there, updates),
    )  # fmt: skip


def _own_words(card: Card, there: Card | None, updates: Mapping[str, Any]) -> dict[str, Any]:
    """The updates of a card with words for people: the folder's own, or new ones where the template is the package's.

    What the package says of its models, of the data they saw above all, is not true of what somebody trains from them.
    """
    if there is not None:
        words = {name: there.document[name] for name in WORDS}
    elif is_installed(card):
        words = {
            "title": f"Trained from {card.id}",
            "description": f"Trained with ccella from the card {card.id}; on what, stands under provenance.",
            "intended_use": "What those who trained it vouch for.",
        }
    else:
        words = {}
    provenance = {**({"data": None} if is_installed(card) else {}), **updates.get("provenance", {})}
    return {**words, **updates, **({"provenance": provenance} if provenance else {})}


def _holds(card: Card, part: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a model folder's part has these weights, to the bit."""
    from safetensors import safe_open

    if part not in card.parts or len(card.parts[part].files) != 1:
        return False
    (file,) = card.parts[part].files
    path = card.directory / file.path
    if file.repo is not None or not path.is_file() or sha256_file(path) != file.sha256:
        return False
    with safe_open(path, "pt") as stored:
        if set(stored.keys()) != set(weights):
            return False
        for name, value in weights.items():
            old = stored.get_tensor(name)
            if old.dtype != value.dtype or not torch.equal(old, value.detach().cpu()):
                return False
    return True


def companion_parts(card: Card, part: str, folder: Path) -> list[str]:
    """The other parts of the template that a model folder takes over: a folder's own parts stay, Hub files too."""
    there = folder_card(folder)
    held = () if there is None else [name for name, other in there.parts.items() if other.files]
    return [
        name
        for name, other in card.parts.items()
        if name not in (part, *held, *dependents(card, part))
        and other.files
        and all(file.repo is None for file in other.files)
    ]


def check_companions(card: Card, part: str, folder: Path, log: Log) -> None:
    """Finds out before the training, not at its end, whether the parts fit that the model folder will hold.

    Args:
        card: The template.
        part: To be trained.
        folder: The model folder.
        log: Is told of parts that will have to be trained anew.

    Raises:
        InputError: The folder has parts of its own that are not those of the template, with which `part` is trained.
        WeightsMissingError, DigestMismatchError: See `zoo.loading.part_paths`.
    """
    there = folder_card(folder)
    for name in DEPENDENCIES.get(part, ()):
        if there is not None and name in card.parts and _digests(there, name) not in ([], _digests(card, name)):
            raise InputError(
                f"{folder} has another {name} than model {card.id}, with which its {part} would be trained.",
                f"Give --model {folder} and latents that were encoded with it, or another -o.",
            )
    for name in dependents(card, part):
        if there is not None and _digests(there, name):
            log(f"The {name} in {folder} goes with the {part} there: with another one it is still to be trained.")
        elif _digests(card, name):
            log(f"The {name} of {card.id} goes with its own {part} and does not come along: it is still to be trained.")
    for name in companion_parts(card, part, folder):
        part_paths(card, name)


def _digests(card: Card, part: str) -> list[str]:
    """The digests of a part's files, in any folder; empty where it has none."""
    return sorted(digest for name, digest in part_digests(card).items() if name.startswith(f"{part}/"))


def describe_run(
    card: Card, part: str, options: LoopTraining, progress: Progress, data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a card tells of how a part was trained: weights it began with, data, options, steps, time, versions.

    Args:
        card: The model that training started with.
        part: The part that was trained.
        options: Of this run.
        progress: Steps, seconds and hardware.
        data: Of the training set.

    Returns:
        The part's table under `provenance`.
    """
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "hardware": progress.hardware,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "data": dict(data),
        **({"changes": list(progress.changes)} if progress.changes else {}),
        **({"initial": describe_weights(card, part)} if options.initial == "card" else {}),
        "options": plain_options(settle_precision(options)),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "monai")},
        },
    }


def describe_weights(card: Card, part: str) -> dict[str, Any]:
    """Which weights a part has and how they came about: a card tells the whole chain of fine-tunings."""
    files = {name: digest for name, digest in part_digests(card).items() if name.startswith(f"{part}/")}
    before = card.provenance.get(part)
    return {"id": card.id, "files": files, **({"provenance": copy.deepcopy(before)} if before else {})}

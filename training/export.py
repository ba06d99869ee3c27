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

from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.folder import write_model_folder
from ..zoo.loading import load_part, part_digests, part_paths
from .config import LoopTraining, plain_options
from .randomness import NETWORK, derive_seed, scoped_seed
from .task import Progress

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
    """Writes a trained part, in the type the options name, into a model folder; parts with weights come along."""
    dtype = DTYPES[options.weights_dtype]
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    return write_model_folder(
        folder, card, parts={part: weights}, copy_parts=companion_parts(card, part), updates=updates
    )


def companion_parts(card: Card, part: str) -> list[str]:
    """The other parts whose files lie in the card's own folder; parts on the Hub stay there."""
    return [
        name
        for name, other in card.parts.items()
        if name != part and other.files and all(file.repo is None for file in other.files)
    ]


def check_companions(card: Card, part: str) -> None:
    """Finds out before the training, not at its end, whether the parts that come along are whole.

    Raises:
        WeightsMissingError, DigestMismatchError: See `zoo.loading.part_paths`.
    """
    for name in companion_parts(card, part):
        part_paths(card, name)


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
        "options": plain_options(options),
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

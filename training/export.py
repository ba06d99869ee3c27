"""From a training run to a model folder, and from a card to the network that training starts with."""

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
from ..zoo.loading import load_part, part_paths
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


def describe_run(options: LoopTraining, progress: Progress, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a card tells of how a part was trained: data, options, steps, time, hardware, versions."""
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "hardware": progress.hardware,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "data": dict(data),
        **({"changes": list(progress.changes)} if progress.changes else {}),
        "options": plain_options(options),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "monai")},
        },
    }

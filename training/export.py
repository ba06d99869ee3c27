"""From a training run to a model folder, and from a card to the network that training starts with."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.folder import write_model_folder
from ..zoo.loading import load_part
from .config import LoopTraining, plain_options
from .randomness import NETWORK, derive_seed, scoped_seed
from .task import Progress


def initial_network(card: Card, part: str, options: LoopTraining) -> nn.Module:
    """The network that training starts with, trainable: random weights from the seed, or those of the card."""
    with scoped_seed(derive_seed(options.seed, NETWORK)):
        network: nn.Module = (
            load_part(card, part) if options.initial == "card" else load_family(card.family).build(card.part(part))
        )
    return network.train().requires_grad_(True)


def export_model(
    folder: Path, card: Card, part: str, weights: Mapping[str, Tensor], *, updates: Mapping[str, Any]
) -> Card:
    """Writes a trained part into a model folder; the card's other parts that have weights come along."""
    others = [name for name, other in card.parts.items() if name != part and other.files]
    return write_model_folder(folder, card, parts={part: weights}, copy_parts=others, updates=updates)


def describe_run(options: LoopTraining, progress: Progress, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a card tells of how a part was trained: data, options, steps, time, hardware, versions."""
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "hardware": progress.hardware,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "data": dict(data),
        "options": plain_options(options),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "monai")},
        },
    }

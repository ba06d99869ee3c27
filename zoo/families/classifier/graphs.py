"""What of a classifier other runtimes execute: all of it, as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...card import Card
from ...graphs import Axis, Graph, GraphInput, Net, ShapeRange
from .network import REDUCTION

if TYPE_CHECKING:
    from monai.networks.nets.efficientnet import EfficientNet

PART = "classifier"
MAX_BATCH = 64
# `classify` takes one exam at a time, so that its probability does not depend on its neighbours.
ASKED_BATCH = 1


class _ClassifierGraph(nn.Module):
    def __init__(self, classifier: EfficientNet) -> None:
        super().__init__()
        # The same function, written without a backward pass of its own, which graphs cannot hold.
        classifier.set_swish(memory_efficient=False)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits


class CompiledClassifier(nn.Module):
    """The classifier's interface on its exported graph: images B C and the axes in, logits B classes out.

    Args:
        nets: `classifier`.
    """

    def __init__(self, nets: Mapping[str, Net]) -> None:
        super().__init__()
        self._nets = nets

    def forward(self, x: Tensor) -> Tensor:
        """Logits B classes of standardised images."""
        return self._nets[PART]({"x": x})["logits"]


def shape_multiple(card: Card) -> int:
    """Image sizes in voxels have to be multiples of this."""
    return REDUCTION


def graphs(card: Card, shapes: ShapeRange | None = None) -> tuple[Graph, ...]:
    """The graph of a classifier.

    Args:
        card: The model.
        shapes: The image shapes that it is to take, multiples of `shape_multiple`; the card's alone when None.
    """
    full = tuple(card.image.shape)
    shapes = ShapeRange(full, full, full) if shapes is None else shapes
    rows = zip(card.image.axes, shapes.minimum, shapes.optimum, shapes.maximum, strict=True)
    spatial = {name: Axis(low, best, high, REDUCTION) for name, low, best, high in rows}
    # Standardised images have zero mean and unit deviation.
    image = GraphInput("x", "normal", ("batch", len(card.image.channels), *spatial))
    axes = {"batch": Axis(1, 1, MAX_BATCH), **spatial}
    return (Graph(PART, PART, (image,), ("logits",), axes, _module, {"batch": ASKED_BATCH}),)


def asked_sizes(card: Card, *, batch_size: int, guidance_scale: float) -> dict[str, dict[str, int]]:
    """What `classify` asks of the graph, by axis: the card's own image shape, one exam at a time."""
    return {PART: dict(zip(card.image.axes, card.image.shape, strict=True)) | {"batch": ASKED_BATCH}}


def assemble(card: Card, part: str, nets: Mapping[str, Net], device: torch.device) -> nn.Module:
    """The classifier as something else executes it, to be used like the part itself."""
    return CompiledClassifier(nets)


def _module(classifier: nn.Module) -> nn.Module:
    from monai.networks.nets.efficientnet import EfficientNet

    assert isinstance(classifier, EfficientNet)
    return _ClassifierGraph(classifier)

"""Which runtime, device and precision execute a model's parts. `auto` decides; an explicit request is met or fails."""

from dataclasses import dataclass

import torch
from torch import nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.loading import load_part
from .devices import PRECISIONS, choose_device, choose_precision

RUNTIMES = ("auto", "torch", "onnx", "tensorrt")


@dataclass(frozen=True)
class TorchRuntime:
    """Executes parts with PyTorch.

    Attributes:
        name: What sidecars record.
        device: Where parts run.
        dtype: Type of weights and activations.
    """

    device: torch.device
    dtype: torch.dtype
    name: str = "torch"

    @property
    def precision(self) -> str:
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def load(self, card: Card, part: str) -> nn.Module:
        """The part with its weights, in evaluation mode; errors as `zoo.loading.load_part`."""
        return load_part(card, part, device=self.device, dtype=self.dtype)


def choose_runtime(requested: str, card: Card, *, device: str = "auto", precision: str = "auto") -> TorchRuntime:
    """The runtime a request means.

    Args:
        requested: auto, torch, onnx or tensorrt. `auto` takes what the model folder holds: PyTorch weights.
        card: The model.
        device: See `choose_device`.
        precision: See `choose_precision`.

    Raises:
        InputError: The model has not been exported for the runtime, or the device or precision is not to be had.
    """
    if requested not in RUNTIMES:
        raise InputError(f"{requested!r} is not a runtime.", f"Use one of {', '.join(RUNTIMES)}.")
    if requested in ("onnx", "tensorrt"):
        raise InputError(
            f"Runtime {requested} was asked for, and model {card.id} holds PyTorch weights only.",
            "Use --runtime torch.",
        )
    chosen = choose_device(device)
    return TorchRuntime(chosen, choose_precision(precision, chosen))

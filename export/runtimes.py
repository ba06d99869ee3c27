"""Which runtime, device and precision execute a model's parts. `auto` decides; an explicit request is met or fails."""

from dataclasses import dataclass

import torch
from torch import nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.loading import load_part

RUNTIMES = ("auto", "torch", "onnx", "tensorrt")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


def choose_device(requested: str) -> torch.device:
    """The device a request means.

    Args:
        requested: auto, cpu, cuda, cuda:N or mps. `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: The request is malformed, or this machine lacks the device.
    """
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise InputError(f"{requested!r} is not a device.", "Use auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"Device {requested} was asked for, and this machine has {count} CUDA devices visible to PyTorch.",
                "Use --device cpu, or install a CUDA build of torch and check the driver with nvidia-smi.",
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("Device mps was asked for, and this machine has none.", "Use --device cpu.")
    elif device.type != "cpu":
        raise InputError(f"Device {requested!r} is not supported.", "Use auto, cpu, cuda, cuda:N or mps.")
    return device


def choose_precision(requested: str, device: torch.device) -> torch.dtype:
    """The number format a request means; `auto` is fp32, the format the cards' figures were measured in.

    Raises:
        InputError: The format is unknown, or the device cannot compute in it.
    """
    if requested == "auto":
        return torch.float32
    if requested not in PRECISIONS:
        raise InputError(f"{requested!r} is not a precision.", f"Use auto, {', '.join(PRECISIONS)}.")
    if requested == "fp16" and device.type == "cpu":
        raise InputError("Precision fp16 was asked for on the CPU.", "Use --precision bf16 or fp32 there.")
    return PRECISIONS[requested]


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

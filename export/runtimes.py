"""Which runtime executes a model's parts. `auto` decides; an explicit request is met or fails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.loading import load_part
from .devices import PRECISIONS, choose_device, choose_precision, forbid_tf32
from .layouts import choose_layouts

RUNTIMES = ("auto", "torch", "onnx", "tensorrt")


class Runtime(Protocol):
    """What executes the parts of a model.

    Attributes:
        name: What sidecars record.
        device: Where tensors live.
        dtype: Type of what goes in.
        precision: Its name.
        details: What sidecars record besides, such as the digests of exported graphs.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def precision(self) -> str: ...
    @property
    def details(self) -> Mapping[str, Any]: ...

    def load(self, card: Card, part: str) -> nn.Module:
        """A part, ready to be used."""
        ...


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

    @property
    def details(self) -> Mapping[str, Any]:
        return {}

    def load(self, card: Card, part: str) -> nn.Module:
        """The part with its weights, in evaluation mode; errors as `zoo.loading.load_part`."""
        network = load_part(card, part, device=self.device, dtype=self.dtype)
        choose_layouts(network)
        return network


def choose_runtime(
    requested: str,
    card: Card,
    *,
    device: str = "auto",
    precision: str = "auto",
    graphs: Sequence[str] | None = None,
    batch_size: int = 1,
    guidance_scale: float = 1.0,
    say: Callable[[str], None] = lambda sentence: None,
) -> Runtime:
    """The runtime a request means. From now on fp32 is fp32 on CUDA: the process computes nothing in TF32.

    Args:
        requested: auto, torch, onnx or tensorrt; for ONNX Runtime also onnx:cpu, onnx:cuda and onnx:tensorrt, which
            name its provider. `auto` takes PyTorch: images differ in their last digits between runtimes, so a command
            must not give others when something was exported meanwhile.
        card: The model.
        device: See `devices.choose_device`.
        precision: See `devices.choose_precision`; for exported graphs `auto` takes fp32 where the folder has it.
        graphs: The exported graphs that will be needed, checked here; all of the model's when None.
        batch_size: Items at a time, which exported graphs have to take.
        guidance_scale: Classifier-free guidance, which doubles the U-Net's batch.
        say: Called with a sentence before something that takes minutes.

    Raises:
        InputError: The model has not been exported for the runtime or for what is asked of it, or the device or
            precision is not to be had.
        ParityError: An engine that was built now computes something else than PyTorch.
        DigestMismatchError: An exported graph is damaged.
    """
    kind, _, provider = requested.partition(":")
    if kind not in RUNTIMES or (provider and kind != "onnx"):
        raise InputError(
            f"{requested!r} is not a runtime.",
            f"Use one of {', '.join(RUNTIMES)}, or onnx:cpu, onnx:cuda, onnx:tensorrt.",
        )
    forbid_tf32()
    if kind == "onnx":
        from .onnx_runtime import open_onnx_runtime

        return open_onnx_runtime(
            card, provider or "auto", device=device, precision=precision, graphs=graphs, batch_size=batch_size,
            guidance_scale=guidance_scale,
        )  # fmt: skip
    if kind == "tensorrt":
        from .tensorrt import open_tensorrt_runtime

        return open_tensorrt_runtime(
            card, device=device, precision=precision, graphs=graphs, batch_size=batch_size,
            guidance_scale=guidance_scale, say=say,
        )  # fmt: skip
    chosen = choose_device(device)
    return TorchRuntime(chosen, choose_precision(precision, chosen))

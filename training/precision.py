"""Number formats of the forward pass: fp32, bf16, and fp16 with a loss scale that follows the gradients."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Below this scale even the smallest gradients would no longer be saved from underflow: something else is wrong.
LEAST_SCALE = 2.0**-10


class Precision:
    """Autocast and, for fp16, PyTorch's GradScaler; weights and optimizer stay in fp32.

    Args:
        name: fp32, bf16 or fp16.
        device: Where the network runs.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.name not in DTYPES:
            return nullcontext()
        return torch.autocast(self._device.type, DTYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradients, scaled where the format needs it."""
        (self._scaler.scale(loss) if self._scaler is not None else loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Brings gradients back to their own size, before they are clipped."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the optimizer's step; with fp16 a step whose gradients overflowed is left out and the scale lowered."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def scale(self) -> float | None:
        """The present loss scale; None where there is none."""
        return float(self._scaler.get_scale()) if self._scaler is not None else None

    @property
    def forgives(self) -> bool:
        """Whether a gradient that overflowed is an ordinary event, mended by a lower scale."""
        return self._scaler is not None and self._scaler.get_scale() > LEAST_SCALE

    def state(self) -> dict[str, Any]:
        """JSON-able state of the loss scale; empty where there is none."""
        return dict(self._scaler.state_dict()) if self._scaler is not None else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scales the gradients down to a total norm of at most `limit`.

    Args:
        parameters: With their gradients, whole or sharded.
        limit: Largest norm; infinity measures and changes nothing.

    Returns:
        The norm before clipping, the same on every process.
    """
    from .sharding import gather_tensor

    chosen = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in chosen if parameter.grad is not None])
    if limit != float("inf"):
        torch.nn.utils.clip_grads_with_norm_(chosen, limit, norm)
    return gather_tensor(norm)

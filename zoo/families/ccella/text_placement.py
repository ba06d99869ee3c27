"""Where a text encoder's weights go: on the device where they fit, else spread over device, memory and disk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

# Activations of one report, and what the allocator keeps back.
SPARE_FRACTION = 0.1
Memory = Mapping[int | str, int]


def weight_bytes(network: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a network's weights in a number format; the network may lie on the meta device."""
    return sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize


def free_memory(device: torch.device) -> dict[int | str, int]:
    """Free bytes of a GPU, by its index, and of this machine, as "cpu"; the names that Accelerate knows."""
    import psutil  # type: ignore[import-untyped]

    free: dict[int | str, int] = {"cpu": psutil.virtual_memory().available}
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        free = {index: torch.cuda.mem_get_info(index)[0], **free}
    return free


def spread(n_bytes: int, device: torch.device, free: Memory | None = None) -> dict[int | str, int] | None:
    """How many bytes of weights may lie where.

    Args:
        n_bytes: Of the weights.
        device: Where the network is to run.
        free: Free bytes, first of the device that it runs on; those of this machine when None.

    Returns:
        None where the weights fit on the device. Else bytes by place, the device first; what exceeds them all goes to
        disk, and each layer's weights come to the device when it runs.
    """
    if free is None:
        if device.type not in ("cuda", "cpu"):
            return None  # nothing is known of the memory of other devices
        free = free_memory(device)
    first = next(iter(free))
    if n_bytes * (1 + SPARE_FRACTION) <= free[first]:
        return None
    return {place: int(size * (1 - SPARE_FRACTION)) for place, size in free.items()}

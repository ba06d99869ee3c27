"""Weights shared out between processes (FSDP2), and the way back to whole tensors.

Checkpoints and exports always hold whole tensors, so they do not depend on how a run was shared out.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.errors import InputError


def sharding_requested() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def shard_weights(objective: nn.Module, device: torch.device, processes: int) -> list[Any]:
    """Shares out the weights of an objective; each process keeps its part of every tensor, in fp32.

    Args:
        objective: With `sharding_units()`, the modules whose weights are gathered together, children before parents.
        device: Of this process.
        processes: How many share.

    Returns:
        The outermost sharded modules.

    Raises:
        InputError: The objective has no such method: its network is small, or is not used through `forward`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    units: Sequence[nn.Module] | None = getattr(objective, "sharding_units", lambda: None)()
    if units is None:
        raise InputError(
            "This part is not made to be trained with FSDP.", "Leave out --use_fsdp: it trains with DDP on any GPU."
        )
    mesh = init_device_mesh(device.type, (processes,))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    inside = {id(child) for unit in units for child in unit.modules() if child is not unit}
    left = [name for name, parameter in objective.named_parameters() if not _is_sharded(parameter)]
    if left:
        raise RuntimeError(f"Parameter {left[0]} is in no sharding unit; its gradients would not be shared.")
    return [unit for unit in units if id(unit) not in inside]


def release_gathered(objective: nn.Module) -> None:
    """Lets go of weights that a forward pass without a backward pass has gathered, so that only shards are left.

    The outermost module keeps them for a backward pass; without this its shards could not be reached, and the next
    forward pass would compute with former values.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_tensor(value: Tensor) -> Tensor:
    """The whole of a tensor; for a sharded one, all processes must ask at the same time."""
    if _is_sharded(value):
        return value.full_tensor()  # type: ignore[attr-defined]
    return value


def gather_state(state: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole copies of tensors on the CPU, one at a time; empty where they are not to be kept.

    Args:
        state: Whole or sharded tensors by name, the same names on all processes.
        keep: Whether this process wants them; all must call.
    """
    gathered = {}
    for name, value in state.items():
        if keep or _is_sharded(value):
            complete = gather_tensor(value.detach())
            if keep:
                gathered[name] = complete.cpu()
    return gathered


def share_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor brought to another one's device, memory layout and sharding, in its own type."""
    if _is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
        return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)
    return torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)


def local_part(value: Tensor) -> Tensor:
    """What this process holds of a tensor; it shares the tensor's memory."""
    return value.to_local() if _is_sharded(value) else value  # type: ignore[attr-defined]


def _is_sharded(value: Tensor) -> bool:
    if type(value) in (Tensor, nn.Parameter):
        return False  # spares single-process runs the import below
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor) or isinstance(getattr(value, "data", None), DTensor)

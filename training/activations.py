"""Activation checkpointing: activations inside a block are dropped and computed again in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..imaging.errors import InputError


def recompute_activations(objective: nn.Module) -> None:
    """Makes an objective's blocks keep nothing but their input between the passes; names and results stay.

    Args:
        objective: With `checkpointing_units()`, the blocks, none inside another.

    Raises:
        InputError: The objective has no such method.
    """
    units: Sequence[nn.Module] | None = getattr(objective, "checkpointing_units", lambda: None)()
    if units is None:
        raise InputError(
            "Option recompute_activations is set for a part that has no blocks to recompute.",
            "Leave it out, or use accumulate to save memory.",
        )
    for module in units:
        module.forward = _recomputed(module.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run

"""An exponential moving average of a network's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The running average of a module's trainable parameters; other tensors of its state are taken as they are.

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that the random start is soon forgotten.

    Args:
        module: What is averaged.
        decay: Weight of the past at each step; 0 keeps no average, and the module's own weights stand for it.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self._averages: dict[str, Tensor] = {}
        if decay > 0:
            with torch.no_grad():
                self._averages = {
                    name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad
                }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the current weights; `step` counts optimizer steps from 1."""
        if not self._averages:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = dict(self._module.named_parameters())
        torch._foreach_lerp_(
            list(self._averages.values()), [parameters[name].detach() for name in self._averages], 1 - decay
        )

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name; empty where none is kept."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved averages; ValueError when they are not those of this module."""
        if set(state) != set(self._averages):
            raise ValueError(f"The saved averages hold {len(state)} tensors; the network has {len(self._averages)}.")
        for name, value in self._averages.items():
            value.copy_(state[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module computes with the averaged weights inside the block."""
        parameters = dict(self._module.named_parameters())
        current = {name: parameters[name].data for name in self._averages}
        for name, value in self._averages.items():
            parameters[name].data = value
        try:
            yield
        finally:
            for name, value in current.items():
                parameters[name].data = value

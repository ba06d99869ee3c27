"""An exponential moving average of a network's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .sharding import local_part, share_like


class WeightAverage:
    """The running average of a module's trainable parameters; other tensors of its state are taken as they are.

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that the random start is soon forgotten.

    Args:
        module: What is averaged; where its weights are sharded, so is their average.
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
        averages, weights = self._pairs()
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name; empty where none is kept."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved averages, whole tensors; ValueError when they are not those of this module."""
        if set(state) != set(self._averages):
            raise ValueError(f"The saved averages hold {len(state)} tensors; the network has {len(self._averages)}.")
        for name, value in self._averages.items():
            value.copy_(share_like(state[name], value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module computes with the averaged weights inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # Values change places, one tensor at a time: sharded modules hold on to their storage, and a second copy of
        # all weights might not fit.
        for average, weight in zip(*self._pairs(), strict=True):
            former = weight.clone()
            weight.copy_(average)
            average.copy_(former)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The averages and the weights, as far as this process holds them."""
        parameters = dict(self._module.named_parameters())
        averages = [local_part(value) for value in self._averages.values()]
        return averages, [local_part(parameters[name].detach()) for name in self._averages]

"""Channels last: the memory layout in which one voxel's channels lie side by side, for images of 2 and 3 axes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# By the number of axes of a tensor B C ...
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def store_channels_last(module: nn.Module, chosen: Callable[[nn.Module], bool] = lambda convolution: True) -> None:
    """Stores convolution weights channels last, in place; their values stay.

    A convolution whose weights lie so gives its result so, whatever the layout of its input.

    Args:
        module: A network.
        chosen: Says which of its convolutions; all by default.
    """
    for each in module.modules():
        weight = getattr(each, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim in FORMATS and chosen(each):
            weight.data = weight.data.contiguous(memory_format=FORMATS[weight.ndim])


def is_channels_last(x: Tensor) -> bool:
    """Whether x, B C ..., lies channels last and not in PyTorch's default layout as well."""
    layout = FORMATS.get(x.ndim)
    return layout is not None and x.is_contiguous(memory_format=layout) and not x.is_contiguous()

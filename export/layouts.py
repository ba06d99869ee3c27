"""In which memory layout PyTorch runs a network fastest."""

import torch
from torch import nn

from ..zoo.layouts import store_channels_last

# In float32 the CPU's kernels run convolutions of more input channels faster in PyTorch's default layout. A network
# whose widest convolution has fewer stays in that layout, but for parts that are given one item at a time: channels
# last its kernels change with the size of the batch, and with them the last digits of an item.
FLOAT32_CHANNELS = 128


def choose_layouts(network: nn.Module) -> None:
    """Stores the convolution weights of a network, in place, as its device and precision want them; their values stay.

    On a CPU a convolution in bf16 takes a fraction of the time channels last (bench/decode.py, bench/unet_step.py). On
    other devices PyTorch's default stays. A network names the parts that are given one item at a time, whatever the
    batch, in `item_by_item`.
    """
    first = next(network.parameters(), None)
    if first is None or first.device.type != "cpu":
        return
    if first.dtype != torch.float32:
        store_channels_last(network)
    elif max(map(_input_channels, network.modules())) >= FLOAT32_CHANNELS:
        store_channels_last(network, lambda each: _input_channels(each) <= FLOAT32_CHANNELS)
    else:
        for name in getattr(network, "item_by_item", ()):
            store_channels_last(network.get_submodule(name))


def _input_channels(module: nn.Module) -> int:
    return int(getattr(module, "in_channels", 0))

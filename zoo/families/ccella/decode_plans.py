"""How the decoder keeps to a memory: all sequences at once, one at a time, or one in slabs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ....imaging.errors import InputError
from ...layouts import is_channels_last
from .autoencoder import Autoencoder, ResBlock, Upsample
from .slabs import layer_of

# Copies of a layer's largest tensor that exist at once, those that convolution kernels reorder for themselves included.
# On a CPU, channels last, nothing is reordered: 2.46 to 2.52 were measured for the whole (bench/decode.py). Elsewhere:
# 3.3 to 3.9 on a CPU in PyTorch's default layout; not measured on GPUs.
CHANNELS_LAST_COPIES = 2.75
WHOLE_COPIES = 4.0
# For the window of a slab 3.1 to 4.6 were measured channels last, 4 to 6 in the default layout.
WINDOW_COPIES = 6


@dataclass(frozen=True)
class DecodePlan:
    """How latents are decoded within a memory.

    Attributes:
        batch: Sequences at a time.
        planes: Latent planes per slab; None decodes the volume whole.
        memory_bytes: What that takes beside the weights, by estimate.
    """

    batch: int
    planes: int | None
    memory_bytes: int


def plan_decode(autoencoder: Autoencoder, shape: Sequence[int], sequences: int, memory_bytes: int) -> DecodePlan:
    """The fastest way to decode within a memory: all sequences at once, else one, else one in slabs.

    It depends on its arguments alone and not on the memory that happens to be free, so that a run can be repeated.

    Args:
        autoencoder: The autoencoder.
        shape: Of a latent, x y z.
        sequences: Of one item.
        memory_bytes: What a decode may take beside the weights.

    Raises:
        InputError: It is less than the thinnest slabs take.
    """
    whole = _whole_bytes(autoencoder, shape)
    if sequences * whole <= memory_bytes:
        return DecodePlan(sequences, None, sequences * whole)
    if whole <= memory_bytes:
        return DecodePlan(1, None, whole)
    least = min(whole, _slab_bytes(autoencoder, shape, 1))
    if least > memory_bytes:
        raise InputError(
            f"A memory of {memory_bytes / 2**20:.2f} MB does not suffice to decode {list(shape)} latents.",
            f"Give --memory {-(-least // 2**20)}MB or more, or use --precision bf16.",
        )
    fitting = [planes for planes in range(1, shape[0]) if _slab_bytes(autoencoder, shape, planes) <= memory_bytes]
    planes = max(fitting, default=1)
    return DecodePlan(1, planes, _slab_bytes(autoencoder, shape, planes))


def _layers(autoencoder: Autoencoder, shape: Sequence[int]) -> Iterator[tuple[nn.Module, int, int, int, int]]:
    """Each block with the channels and the voxels that go in and come out."""
    voxels = math.prod(shape)
    for block in autoencoder.decoder.blocks:  # type: ignore[union-attr]
        if isinstance(block, nn.GroupNorm):
            continue
        layer = _main_layer(block)
        before, after = layer.in_channels, layer.out_channels
        larger = voxels * 2 ** len(shape) if isinstance(block, Upsample) else voxels
        yield block, before, voxels, after, larger
        voxels = larger


def _main_layer(block: nn.Module) -> nn.Conv3d | nn.ConvTranspose3d:
    """The block's first convolution, in whose layout its results lie."""
    return layer_of(
        block.conv1 if isinstance(block, ResBlock) else block.conv if isinstance(block, Upsample) else block
    )


def _element_size(autoencoder: Autoencoder) -> int:
    return next(autoencoder.parameters()).element_size()


def _whole_bytes(autoencoder: Autoencoder, shape: Sequence[int]) -> int:
    largest = max(
        _whole_copies(block) * max(before, after) * larger
        for block, before, _, after, larger in _layers(autoencoder, shape)
    )
    return round(largest) * _element_size(autoencoder)


def _whole_copies(block: nn.Module) -> float:
    weight = _main_layer(block).weight
    return CHANNELS_LAST_COPIES if weight.device.type == "cpu" and is_channels_last(weight) else WHOLE_COPIES


def _slab_bytes(autoencoder: Autoencoder, shape: Sequence[int], planes: int) -> int:
    worst = 0
    for block, before, voxels, after, larger in _layers(autoencoder, shape):
        scale = round((larger / math.prod(shape)) ** (1 / len(shape)))
        window = max(before, after) * larger * (planes * scale + 2) // (shape[0] * scale)
        # Input and output; in a residual block the shortcut's slabs and the hidden ones take the input's place.
        stored = before * voxels + after * larger
        if isinstance(block, ResBlock):
            stored = max(before, 2 * after) * voxels
        worst = max(worst, stored + WINDOW_COPIES * window)
    return worst * _element_size(autoencoder)

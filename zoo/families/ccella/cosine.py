"""Fresh autoencoders that begin as a block cosine transform instead of as noise.

A convolutional autoencoder with random weights needs thousands of steps before it copies a voxel. This one starts as
a linear codec: the encoder gathers blocks of voxels and keeps their lowest cosine coefficients as latent channels,
and the decoder spreads them again (the transform of JPEG, in 3-D: Ahmed, Natarajan and Rao 1974, "Discrete cosine
transform"). Residual branches start at zero, so training begins at the codec's quality and adds what a linear codec
cannot do.

Group normalisation is the one layer in the way: it would erase each image's brightness. Channels that carry nothing
else hold large constants, which make the statistics nearly the same for every image, and the following convolution
subtracts them again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Large against images in 0..1, small enough to leave bfloat16 activations their digits.
CONSTANT = 4.0
BLOCK = 4


def cosine_basis(count: int, axis_weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The lowest-frequency orthonormal cosine functions on blocks of 4x4x4 voxels.

    Args:
        count: How many.
        axis_weights: Weight of each axis's squared frequency in the order; below 1 for an axis with coarser voxels.

    Returns:
        Basis [count, 4, 4, 4], and gain [count]: what brings coefficients of natural images to similar sizes.
    """
    line = torch.tensor(
        [[math.cos(math.pi * (2 * n + 1) * f / (2 * BLOCK)) for n in range(BLOCK)] for f in range(BLOCK)],
        dtype=torch.float64,
    )
    line = line / line.norm(dim=1, keepdim=True)
    frequencies = sorted(
        itertools.product(range(BLOCK), repeat=3),
        key=lambda f: sum(w * n * n for w, n in zip(axis_weights, f, strict=True)),
    )[:count]
    basis = torch.stack([torch.einsum("i,j,k->ijk", line[a], line[b], line[c]) for a, b, c in frequencies])
    # Spectra of images fall about as the square of the frequency.
    gain = torch.tensor([6.0 * (1.0 + 1.2 * sum(n * n for n in f)) for f in frequencies])
    return basis.float(), gain


@torch.no_grad()
def start_as_cosine_transform(
    encoder: nn.Module, decoder: nn.Module, groups: int, axis_weights: Sequence[float]
) -> None:
    """Sets the weights of an encoder and a decoder with two halvings and transposed upsampling.

    Args:
        encoder: MAISI encoder, 1 channel to c latent channels (before the 1x1x1 convolutions of the moments).
        decoder: MAISI decoder.
        groups: Groups of the normalisations.
        axis_weights: See `cosine_basis`.
    """
    # On the meta device there are shapes alone and nothing to set.
    if next(encoder.parameters()).is_meta:
        return
    latents = _conv(_blocks(encoder)[-1]).out_channels
    kept = min(_conv(_scalers(encoder)[1]).out_channels, BLOCK**3)
    basis, gain = cosine_basis(kept, axis_weights)
    # Coefficients over 8, so that the first is the block's mean.
    analysis, synthesis = basis / 8.0, basis * 8.0
    for half in (encoder, decoder):
        for block in _blocks(half):
            if hasattr(block, "nin_shortcut"):
                _pass_through(block)
    _start_encoder(encoder, analysis, gain[:latents], groups)
    _start_decoder(decoder, synthesis[:latents], gain[:latents], groups)


def _start_encoder(encoder: nn.Module, analysis: Tensor, gain: Tensor, groups: int) -> None:
    first, (fine, coarse), last = _conv(_blocks(encoder)[0]), _scalers(encoder), _conv(_blocks(encoder)[-1])
    _clear(first)
    first.weight[0, 0, 1, 1, 1] = 1.0
    _clear(_conv(fine))
    _clear(_conv(coarse))
    for phase, (x, y, z) in enumerate(itertools.product(range(2), repeat=3)):
        _conv(fine).weight[phase, 0, x, y, z] = 1.0
        # Offset 2 o of the coarse grid and offset (x, y, z) of the fine one make up the voxel of the block.
        _conv(coarse).weight[: len(analysis), phase, :2, :2, :2] = analysis[:, x::2, y::2, z::2]
    width = last.in_channels
    places = [(k % groups) * (width // groups) + k // groups for k in range(len(analysis))]
    block = _blocks(encoder)[-3]
    _project(block, places)
    constants = _hold_constants(block, [c for c in range(width) if c not in places], width, groups)
    spread = _spread(constants, width, groups)
    _clear(last)
    for k, g in enumerate(gain.tolist()):
        group = places[k] // (width // groups)
        last.weight[k, :, 1, 1, 1] = _read_out(places[k], group, constants, width, groups) * spread[group] * g


def _start_decoder(decoder: nn.Module, synthesis: Tensor, gain: Tensor, groups: int) -> None:
    first, (coarse, fine), last = _conv(_blocks(decoder)[0]), _scalers(decoder), _conv(_blocks(decoder)[-1])
    _clear(first)
    for k, g in enumerate(gain.tolist()):
        first.weight[k, k, 1, 1, 1] = 1.0 / g
    _clear(_conv(coarse))
    _clear(_conv(fine))
    for phase, (x, y, z) in enumerate(itertools.product(range(2), repeat=3)):
        _conv(coarse).weight[: len(synthesis), phase, 1:, 1:, 1:] = synthesis[:, x::2, y::2, z::2]
        _conv(fine).weight[phase, 0, 1 + x, 1 + y, 1 + z] = 1.0
    width = last.in_channels
    block = _blocks(decoder)[-3]
    constants = _hold_constants(block, list(range(1, width)), width, groups)
    _clear(last)
    last.weight[0, :, 1, 1, 1] = _read_out(0, 0, constants, width, groups) * _spread(constants, width, groups)[0]


def _blocks(half: nn.Module) -> list[nn.Module]:
    """The layers of an encoder or decoder, in order."""
    return list(half.get_submodule("blocks").children())


def _conv(block: nn.Module) -> nn.Conv3d | nn.ConvTranspose3d:
    """The one convolution of a MAISI layer that wraps it."""
    found = [child for child in block.modules() if isinstance(child, nn.Conv3d | nn.ConvTranspose3d)]
    return found[0]


def _scalers(half: nn.Module) -> list[nn.Module]:
    """The two layers that change the resolution, in order."""
    return [block for block in _blocks(half) if type(block).__name__ in ("MaisiDownsample", "Upsample")]


def _clear(conv: nn.Conv3d | nn.ConvTranspose3d) -> None:
    conv.weight.zero_()
    if conv.bias is not None:
        conv.bias.zero_()


def _pass_through(block: nn.Module) -> None:
    """A residual block that hands its first channels on: the branch ends in zeros, the shortcut is the identity."""
    _clear(_conv(block.get_submodule("conv2")))
    if not isinstance(block.get_submodule("nin_shortcut"), nn.Identity):
        _project(block, list(range(min(_conv(block.get_submodule("nin_shortcut")).weight.shape[:2]))))


def _project(block: nn.Module, places: Sequence[int]) -> None:
    """The shortcut puts input channel k at `places[k]`."""
    if isinstance(block.get_submodule("nin_shortcut"), nn.Identity):
        return
    shortcut = _conv(block.get_submodule("nin_shortcut"))
    _clear(shortcut)
    for k, place in enumerate(places):
        shortcut.weight[place, k] = 1.0


def _hold_constants(block: nn.Module, free: Sequence[int], width: int, groups: int) -> Tensor:
    """Gives the free channels of each group constants in pairs of opposite sign; returns them, [width]."""
    constants = torch.zeros(width)
    for group in range(groups):
        members = [channel for channel in free if channel * groups // width == group]
        for place, channel in enumerate(members[: len(members) // 2 * 2]):
            constants[channel] = CONSTANT if place % 2 else -CONSTANT
    bias = _conv(block.get_submodule("conv2")).bias
    assert bias is not None
    bias.copy_(constants)
    return constants


def _spread(constants: Tensor, width: int, groups: int) -> Tensor:
    """Standard deviation that the constants alone give to each group, [groups]."""
    return constants.view(groups, width // groups).square().mean(1).sqrt()


def _read_out(place: int, group: int, constants: Tensor, width: int, groups: int) -> Tensor:
    """Weights [width] that read one channel after normalisation and subtract the group's mean again."""
    weights = torch.zeros(width)
    weights[place] = 1.0
    start, size = group * (width // groups), width // groups
    held = constants[start : start + size] != 0
    weights[start : start + size][held] = -1.0 / int(held.sum())
    return weights

"""The decoder in slabs: the same image from a fraction of the memory.

Tiles with a halo are not exact here, because group normalisation takes its statistics from the whole volume. So the
decoder runs layer by layer, each layer slab by slab along the first axis: a slab borrows one plane from each neighbour,
and while a layer's slabs come out, their moments are summed, so that the next normalisation knows the whole volume
before its first slab. Nothing is computed twice but the normalisation of borrowed planes; a layer's input is given free
slab by slab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiConvolution
from torch import Tensor, nn
from torch.nn import functional

from ...layouts import is_channels_last
from .autoencoder import Autoencoder, ResBlock, Upsample
from .norms import apply_moments, channel_moments, group_moments

AXIS = 2


def _on_cpu_channels_last(x: Tensor) -> bool:
    return x.device.type == "cpu" and is_channels_last(x)


@dataclass
class Moments:
    """Mean and summed squared deviation of each group of channels, merged slab by slab in float64.

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    groups: int
    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    deviation: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor) -> None:
        """Takes in a slab B C X Y Z."""
        if _on_cpu_channels_last(x):
            moments = [group_moments(*channel_moments(item), self.groups) for item in x]
            mean, variance = (torch.stack(parts) for parts in zip(*moments, strict=True))
        else:
            variance, mean = torch.var_mean(x.flatten(1).unflatten(1, (self.groups, -1)).float(), dim=-1, correction=0)
        count = x.shape[1] // self.groups * x[0, 0].numel()
        mean, deviation = mean.double(), variance.double() * count
        total = self.count + count
        delta = mean - self.mean
        self.deviation = self.deviation + deviation + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def normaliser(self, norm: nn.GroupNorm, *, activate: bool) -> Callable[[Tensor], Tensor]:
        """The group normalisation of the whole volume, followed by SiLU where `activate`, for a part of it.

        The parts are normalised with PyTorch's kernel for known statistics, which takes them per channel.
        """
        mean, variance = self.mean, self.deviation / self.count
        each = norm.num_channels // self.groups
        mean_c, variance_c = (value.float().repeat_interleave(each, dim=1).flatten() for value in (mean, variance))
        weight, bias = (value.float().repeat(mean.shape[0]) for value in (norm.weight, norm.bias))

        def normalise(x: Tensor) -> Tensor:
            if x.dtype == torch.float32 and _on_cpu_channels_last(x):
                out = torch.empty_like(x)
                for i, item in enumerate(x):
                    apply_moments(item, mean[i], variance[i], norm, out[i], activate=activate)
                return out
            # One item is normalised where it lies; several are laid one after another, which is a copy channels last.
            rows = x if len(x) == 1 else x.flatten(0, 1)[None]
            normed = functional.batch_norm(rows, mean_c, variance_c, weight, bias, training=False, eps=norm.eps)
            return (functional.silu(normed, inplace=True) if activate else normed).view_as(x)

        return normalise


class Volume:
    """A volume B C X Y Z as slabs along x, with the moments that the next normalisation needs.

    Args:
        slabs: From first to last.
        moments: Of the whole; None where no normalisation follows.
    """

    def __init__(self, slabs: list[Tensor], moments: Moments | None = None) -> None:
        self.slabs = slabs
        self.moments = moments

    def windows(self, *, keep: bool) -> Iterator[tuple[Tensor | None, Tensor, Tensor | None]]:
        """Each slab with the plane before and the plane after it; None at the ends.

        Args:
            keep: False gives each slab free once it has been passed.
        """
        before = None
        for i, slab in enumerate(self.slabs):
            after = self.slabs[i + 1].narrow(AXIS, 0, 1) if i + 1 < len(self.slabs) else None
            yield before, slab, after
            before = slab.narrow(AXIS, slab.shape[AXIS] - 1, 1)
            if not keep:
                before = before.clone()
                self.slabs[i] = slab.new_empty(0)


class _Collector:
    """Gathers the slabs of a layer's output and their moments."""

    def __init__(self, groups: int | None) -> None:
        self.volume = Volume([], None if groups is None else Moments(groups))

    def add(self, slab: Tensor) -> None:
        self.volume.slabs.append(slab)
        if self.volume.moments is not None:
            self.volume.moments.add(slab)


def _join(before: Tensor | None, slab: Tensor, after: Tensor | None) -> Tensor:
    return torch.cat([part for part in (before, slab, after) if part is not None], dim=AXIS)


def _pad(x: Tensor, first: bool, last: bool) -> Tensor:
    """The convolution's own zeros at the ends of the volume."""
    return functional.pad(x, (0, 0, 0, 0, int(first), int(last))) if first or last else x


def layer_of(block: nn.Module) -> nn.Conv3d | nn.ConvTranspose3d:
    """The convolution inside MONAI's wrappers."""
    layer = block.conv.conv  # type: ignore[union-attr]
    assert isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
    return layer


def _convolve(
    volume: Volume,
    block: nn.Module,
    groups: int | None,
    *,
    norm: nn.GroupNorm | None = None,
    activate: bool = True,
    shortcut: Callable[[Tensor], Tensor] | None = None,
    shortcuts: list[Tensor] | None = None,
    added: list[Tensor] | None = None,
) -> Volume:
    """A 3x3x3 convolution, with normalisation before it where a norm is given.

    Args:
        volume: The input; given free on the way, unless `shortcut` is the identity that keeps it.
        block: Holds the convolution.
        groups: Of the moments to gather; None gathers none.
        norm: Applied before.
        activate: SiLU follows the norm.
        shortcut: Applied to every input slab; its results go to `shortcuts`.
        shortcuts: See `shortcut`.
        added: Slabs that the output is added to, in place; they become the output.
    """
    layer, out = layer_of(block), _Collector(groups)
    normalise = None if norm is None or volume.moments is None else volume.moments.normaliser(norm, activate=activate)
    keeps = isinstance(shortcut, nn.Identity)
    for i, (before, slab, after) in enumerate(volume.windows(keep=keeps)):
        if shortcut is not None and shortcuts is not None:
            shortcuts.append(shortcut(slab))
        window = _join(before, slab, after)
        if normalise is not None:
            window = normalise(window)
        window = _pad(window, before is None, after is None)
        made = functional.conv3d(window, layer.weight, layer.bias, padding=(0, 1, 1))
        out.add(made if added is None else added[i].add_(made))
    return out.volume


def _apply_residual(volume: Volume, block: ResBlock, groups: int, wanted: int | None) -> Volume:
    """A residual block: the shortcut's slabs are made while its input passes, and become its output."""
    shortcuts: list[Tensor] = []
    hidden = _convolve(volume, block.conv1, groups, norm=block.norm1, shortcut=block.nin_shortcut, shortcuts=shortcuts)
    volume.slabs.clear()
    return _convolve(hidden, block.conv2, wanted, norm=block.norm2, added=shortcuts)


def _upsample(volume: Volume, block: Upsample, wanted: int | None) -> Volume:
    """Twice the planes: a transposed convolution, or trilinear interpolation and a convolution."""
    out = _Collector(wanted)
    for before, slab, after in volume.windows(keep=False):
        count = 2 * slab.shape[AXIS]
        if block.use_convtranspose:
            # Plane 2i comes from plane i alone and plane 2i + 1 from i and i + 1: only the next plane is borrowed.
            out.add(block.conv.conv(_join(None, slab, after)).narrow(AXIS, 0, count).contiguous())
            continue
        larger = functional.interpolate(_join(before, slab, after), scale_factor=2.0, mode="trilinear")
        # One interpolated plane beyond each inner border is what the convolution looks at.
        start = 0 if before is None else 1
        needed = count + (before is not None) + (after is not None)
        window = _pad(larger.narrow(AXIS, start, needed), before is None, after is None)
        layer = layer_of(block.conv)
        out.add(functional.conv3d(window, layer.weight, layer.bias, padding=(0, 1, 1)))
    return out.volume


@torch.no_grad()
def decode_in_slabs(autoencoder: Autoencoder, z: Tensor, planes: int) -> Tensor:
    """The image of a latent, equal to `autoencoder.decode(z)` up to rounding.

    Args:
        autoencoder: The autoencoder, without attention.
        z: Latent, B c x y z.
        planes: Latent planes per slab; the image's slabs have `downsample` times as many.

    Returns:
        The image, B 1 X Y Z.
    """
    groups = autoencoder.config.norm_num_groups
    blocks = list(autoencoder.decoder.blocks)  # type: ignore[arg-type]
    volume = Volume(list(autoencoder.post_quant_conv(z).split(planes, dim=AXIS)))
    for i, block in enumerate(blocks):
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        wanted = groups if isinstance(following, ResBlock | nn.GroupNorm) else None
        if isinstance(block, MaisiConvolution):
            volume = _convolve(volume, block, wanted)
        elif isinstance(block, ResBlock):
            volume = _apply_residual(volume, block, groups, wanted)
        elif isinstance(block, Upsample):
            volume = _upsample(volume, block, wanted)
        elif isinstance(block, nn.GroupNorm):
            # Between the last norm and the last convolution MAISI has no activation.
            volume = _convolve(volume, blocks[i + 1], None, norm=block, activate=False)
            break
        else:
            raise TypeError(f"The decoder has a {type(block).__name__}, which does not run in slabs.")
    return torch.cat(volume.slabs, dim=AXIS)

"""Group normalisation of large volumes that lie channels last on a CPU.

There PyTorch's kernel sums a whole group in float32, which over millions of voxels costs digits. Here the sums of some
thousand voxels at a time are taken in float32 and merged in float64, and scale, shift and SiLU go over each such part
while it lies in the processor's cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...layouts import is_channels_last

# Elements that are worked on at once: with their copy in float32 they stay within a core's cache.
CHUNK_ELEMENTS = 2**18


def split_rows(x: Tensor) -> Iterator[Tensor]:
    """An item C X Y Z that lies channels last as parts of voxels x channels, without a copy."""
    rows = x.movedim(0, -1).flatten(0, -2)
    return iter(rows.split(max(1, CHUNK_ELEMENTS // rows.shape[1])))


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (of the population) of each channel of an item C X Y Z that lies channels last, in float64."""
    total = torch.zeros(2, x.shape[0], dtype=torch.float64)
    # Squares of what is left after the mean of a part, or a variance far below the squared mean would lose its digits.
    shift = next(split_rows(x)).float().mean(0)
    for part in split_rows(x):
        values = part.float() - shift
        total[0] += values.sum(0)
        total[1] += values.square_().sum(0)
    mean, square = total / (x.numel() // x.shape[0])
    return mean + shift.double(), (square - mean.square()).clamp_(min=0)


def group_moments(mean: Tensor, variance: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels from those of its channels, which have equally many voxels."""
    mean, variance = mean.unflatten(-1, (groups, -1)), variance.unflatten(-1, (groups, -1))
    return mean.mean(-1), variance.mean(-1) + mean.var(-1, correction=0)


def apply_moments(
    x: Tensor, mean: Tensor, variance: Tensor, norm: nn.GroupNorm, out: Tensor, *, activate: bool
) -> None:
    """Writes an item C X Y Z, normalised by its groups' moments, to `out`; both lie channels last."""
    each = norm.num_channels // norm.num_groups
    scale = norm.weight.double() * (variance + norm.eps).rsqrt().repeat_interleave(each)
    shift = norm.bias.double() - mean.repeat_interleave(each) * scale
    scale, shift = scale.float(), shift.float()
    for part, target in zip(split_rows(x), split_rows(out), strict=True):
        torch.addcmul(shift, part, scale, out=target)
        if activate:
            functional.silu(target, inplace=True)


def normalise(x: Tensor, norm: nn.GroupNorm, *, activate: bool) -> Tensor:
    """`norm` of x, B C X Y Z, and SiLU where `activate`; a new tensor in the layout of x."""
    if not _is_imprecise(x):
        normed = norm(x)
        return functional.silu(normed, inplace=not torch.is_grad_enabled()) if activate else normed
    out = torch.empty_like(x)
    for item, target in zip(x, out, strict=True):
        moments = group_moments(*channel_moments(item), norm.num_groups)
        apply_moments(item, *moments, norm, target, activate=activate)
    return out


def _is_imprecise(x: Tensor) -> bool:
    """Whether PyTorch's kernel would do badly. In bf16 its error is lost in the rounding, and it is the faster one."""
    on_cpu = x.device.type == "cpu" and not torch.is_grad_enabled()
    return on_cpu and x.dtype == torch.float32 and is_channels_last(x)


class GroupNorm(nn.GroupNorm):
    """PyTorch's group normalisation, precise in every layout."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x, B C X Y Z."""
        return normalise(x, self, activate=False) if _is_imprecise(x) else super().forward(x)


def make_precise(module: nn.Module) -> None:
    """Turns every group normalisation of PyTorch inside a module into the one above, in place."""
    for norm in module.modules():
        if type(norm) is nn.GroupNorm:
            norm.__class__ = GroupNorm

"""Networks that keep activations channels last, the layout in which convolutions run fastest on most devices."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..zoo.layouts import FORMATS, store_channels_last

# Elements that are worked on at once: in float32 they stay within a core's cache.
CHUNK_ELEMENTS = 2**18


def use_channels_last(module: nn.Module) -> None:
    """Stores the module's convolution weights channels last, in place; their values stay.

    On a CPU group normalisation in bf16 also gets a backward pass of its own: PyTorch's takes ten times longer in this
    layout than in the other, which is most of what the convolutions gain.
    """
    store_channels_last(module)
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm) and norm.affine:
            # A class and no function in its place: a copy of the module must not go on with the weights of this one.
            norm.__class__ = ChannelsLastGroupNorm


class ChannelsLastGroupNorm(nn.GroupNorm):
    """PyTorch's group normalisation with another backward pass, where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x [B, C, ...]."""
        layout = FORMATS.get(x.ndim)
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x[0].numel() > CHUNK_ELEMENTS
        if not (slow and torch.is_grad_enabled() and layout and x.is_contiguous(memory_format=layout)):
            return super().forward(x)
        normalised: Tensor = _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return normalised


class _GroupNorm(torch.autograd.Function):
    """Group normalisation of channels-last activations on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        voxels = x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(x, weight, bias, x.shape[0], x.shape[1], voxels, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        dx = torch.empty_like(x)
        items = [
            _backward_item(*arrays)
            for arrays in zip(_rows(x), _rows(dy.contiguous(memory_format=FORMATS[x.ndim])), _rows(dx),
                              [weight.float()] * len(x), mean.float(), rstd.float(), strict=True)
        ]  # fmt: skip
        d_weight, d_bias = (torch.stack(parts).sum(0).to(weight.dtype) for parts in zip(*items, strict=True))
        return dx, d_weight, d_bias, None, None


def _rows(x: Tensor) -> Sequence[Tensor]:
    """Each item of B C ... as voxels x channels, without a copy."""
    return list(x.movedim(1, -1).flatten(1, -2))


def _backward_item(
    x: Tensor, dy: Tensor, dx: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes one item's gradient into `dx` and gives its share of those of weight and bias.

    With normalised values n = (x - mean) rstd over a group of m elements, and g = dy weight:
    dx = rstd (g - sum(g) / m - n sum(g n) / m). All sums are taken in float32.

    Args:
        x: Voxels x channels.
        dy: Likewise.
        dx: Likewise.
        weight: Per channel, float32.
        mean: Per group, float32.
        rstd: Per group, float32.
    """
    channels, groups = x.shape[1], len(mean)
    rows = max(1, CHUNK_ELEMENTS // channels)
    dy_sum, dyx_sum = torch.zeros(channels), torch.zeros(channels)
    for part, values in zip(dy.split(rows), x.split(rows), strict=True):
        gradient = part.float()
        dy_sum += gradient.sum(0)
        dyx_sum += (gradient * values).sum(0)
    each = channels // groups
    mean_c, rstd_c = mean.repeat_interleave(each), rstd.repeat_interleave(each)
    dyn_sum = (dyx_sum - mean_c * dy_sum) * rstd_c
    elements = len(x) * each
    total = (weight * dy_sum).view(groups, each).sum(1) / elements
    along = (weight * dyn_sum).view(groups, each).sum(1) / elements
    on_x = -(along * rstd * rstd).repeat_interleave(each)
    constant = -(total * rstd).repeat_interleave(each) - on_x * mean_c
    on_dy = weight * rstd_c
    for part, values, out in zip(dy.split(rows), x.split(rows), dx.split(rows), strict=True):
        out.copy_(torch.addcmul(constant, part.float(), on_dy).addcmul_(values.float(), on_x))
    return dyn_sum, dy_sum

"""The MAISI autoencoder with fused group normalisation.

MONAI's `AutoencoderKlMaisi` normalises group by group, splits its convolutions and empties the device's cache
between layers, to decode whole-body CT on small cards. Here the same parameters, under the same names, run unsplit,
and group normalisation is PyTorch's own. Source: Guo et al. 2024, "MAISI: Medical AI for Synthetic Imaging".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from torch import Tensor, nn
from torch.nn import functional

from .config import AutoencoderConfig, read_settings
from .cosine import start_as_cosine_transform
from .norms import GroupNorm, normalise

FRESH_LOG_VARIANCE = -6.0


class ResBlock(nn.Module):
    """MAISI's residual block: norm, SiLU, convolution, twice, plus the (projected) input.

    It takes over the layers of a MONAI block, so names and shapes stay. Without gradients the activation overwrites
    the normalised tensor: at 256x256x128 voxels and 128 channels each copy avoided is 4 GiB.
    """

    def __init__(self, block: MaisiResBlock) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.nin_shortcut = block.nin_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, X, Y, Z] to [B, out, X, Y, Z]."""
        inplace = not torch.is_grad_enabled()
        h = self.conv1(normalise(x, self.norm1, activate=True))
        h = self.conv2(normalise(h, self.norm2, activate=True))
        shortcut = self.nin_shortcut(x)
        return h.add_(shortcut) if inplace else h + shortcut


class Upsample(nn.Module):
    """MAISI's upsampling: twice the size by trilinear interpolation and a convolution, or by a transposed convolution.

    It takes over the layer of a MONAI block, so names and shapes stay; MONAI's copies its result into PyTorch's default
    memory layout, here the result keeps the layout of the convolution.
    """

    def __init__(self, block: MaisiUpsample) -> None:
        super().__init__()
        self.conv, self.use_convtranspose = block.conv, block.use_convtranspose

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, X, Y, Z] to [B, C, 2X, 2Y, 2Z]."""
        if not self.use_convtranspose:
            x = functional.interpolate(x, scale_factor=2.0, mode="trilinear")
        larger: Tensor = self.conv(x)
        return larger


class Autoencoder(AutoencoderKlMaisi):
    """KL autoencoder: image [B, 1, X, Y, Z] in 0..1 to latent [B, c, X/4, Y/4, Z/4] and back."""

    # `stages.decode_latent` decodes the items of a batch one after another.
    item_by_item = ("decoder",)

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(
            spatial_dims=config.spatial_dims,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_res_blocks=config.num_res_blocks,
            num_channels=config.channels,
            attention_levels=(False,) * len(config.channels),
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            num_splits=1,
            save_mem=False,
            use_convtranspose=config.transposed_upsampling,
        )
        self.config = config
        self.downsample = 2 ** (len(config.channels) - 1)
        _fuse(self)
        # A fresh posterior as wide as its prior drowns the first signals that the decoder could learn from.
        _reset(self, "quant_conv_log_sigma", bias=FRESH_LOG_VARIANCE)

    def encode_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode an image into the moments of its posterior.

        Args:
            x: image, [B, in_channels, X, Y, Z], values in 0..1; X, Y, Z multiples of `downsample`.

        Returns:
            mean and sigma, each [B, latent_channels, X/4, Y/4, Z/4] with three levels. As in MONAI the network
            gives the log variance, clamped to -30..20, and sigma = exp(log variance / 2).

        Raises:
            ValueError: the shape does not fit.
        """
        if x.ndim != 2 + self.config.spatial_dims or any(size % self.downsample for size in x.shape[2:]):
            raise ValueError(
                f"The autoencoder was given an image of shape {tuple(x.shape)}; it needs "
                f"{2 + self.config.spatial_dims} axes, the spatial ones multiples of {self.downsample}."
            )
        return self.encode(x)


def build_autoencoder(config: Mapping[str, Any]) -> Autoencoder:
    """Build the autoencoder from a card's table, with fresh weights.

    Args:
        config: the keys of `AutoencoderConfig`.

    Raises:
        CardError: the table cannot be read.
    """
    settings = read_settings(AutoencoderConfig, config, "autoencoder")
    network = Autoencoder(settings)
    if settings.start == "cosine":
        weights = settings.cosine_axis_weights or (1.0,) * 3
        start_as_cosine_transform(network.encoder, network.decoder, settings.norm_num_groups, weights)
        for name in ("quant_conv_mu", "post_quant_conv"):
            _reset(network, name, bias=0.0, weight=nn.init.dirac_)
        _reset(network, "quant_conv_log_sigma", bias=FRESH_LOG_VARIANCE, weight=nn.init.zeros_)
    return network


def _reset(network: nn.Module, name: str, *, bias: float, weight: Callable[[Tensor], Tensor] | None = None) -> None:
    """Sets the bias, and where a rule is given the weights, of one of the 1x1x1 convolutions around the latent."""
    conv = network.get_submodule(f"{name}.conv")
    assert isinstance(conv, nn.Conv3d)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    if weight is not None:
        weight(conv.weight)


def _fuse(module: nn.Module) -> None:
    """Replace MONAI's split normalisation, residual blocks and upsampling, in place, keeping parameters' names."""
    for name, child in module.named_children():
        _fuse(child)
        if isinstance(child, MaisiGroupNorm3D):
            weight = child.weight
            setattr(module, name, GroupNorm(child.num_groups, child.num_channels, child.eps, device=weight.device))
        elif isinstance(child, MaisiResBlock):
            setattr(module, name, ResBlock(child))
        elif isinstance(child, MaisiUpsample):
            setattr(module, name, Upsample(child))

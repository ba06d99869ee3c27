"""The denoising U-Net: MONAI's MAISI U-Net with a class input in place of the body-region input.

MONAI's `DiffusionModelUNetMaisi` embeds [time | top region | bottom region | spacing]. CCELLA keeps its first and
last parts and puts the class pair where the top region was: [time | class | spacing], each 4 * channels[0] wide,
concatenated in this order. Units: the class pair arrives as percent (0..100); the spacing arrives in mm and is
multiplied by 100 here and nowhere else, because MAISI's spacing layer was trained on hundredths of a millimetre.
"""

from __future__ import annotations

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.blocks.crossattention import CrossAttentionBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetTransformerBlock
from torch import Tensor, nn

from .config import UNetConfig
from .norms import make_precise

SPACING_SCALE = 100.0
# Three coordinates stand beside dozens of noisy latent channels; at their own size a convolution hardly hears them.
COORDINATE_SCALE = 4.0
# Pairs of a query and a key from which on the fused attention trains faster on a CPU.
FUSED_PAIRS = 512**2


class UNet(DiffusionModelUNetMaisi):
    """U-Net on latents, conditioned on time, class, spacing and, through cross-attention, the report.

    Args:
        config: the numbers of the U-Net.
        context_width: width of the context; None builds a U-Net that attends to itself only.
        classes: width of the class input.
    """

    def __init__(self, config: UNetConfig, context_width: int | None, classes: int = 2) -> None:
        super().__init__(
            spatial_dims=config.spatial_dims,
            in_channels=config.in_channels + (config.spatial_dims if config.coordinates else 0),
            out_channels=config.out_channels,
            num_res_blocks=config.num_res_blocks,
            num_channels=config.channels,
            # Without a report a level that does not attend to itself has nothing to attend to.
            attention_levels=[
                attends and (context_width is not None or config.attends_to_itself(level))
                for level, attends in enumerate(config.attention_levels)
            ],
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            num_head_channels=config.num_head_channels,
            with_conditioning=context_width is not None,
            transformer_num_layers=config.transformer_num_layers,
            cross_attention_dim=context_width,
            include_top_region_index_input=True,
            include_spacing_input=True,
        )
        self.config = config
        del self.top_region_index_layer
        self.pirads_layer = self._create_embedding_module(classes, 4 * config.channels[0])
        levels = len(config.channels)
        blocks = [*self.down_blocks, self.middle_block, *self.up_blocks]
        places = [*range(levels), levels - 1, *reversed(range(levels))]
        for level, block in zip(places, blocks, strict=True):
            for module in block.modules():
                if isinstance(module, DiffusionUNetTransformerBlock) and not config.attends_to_itself(level):
                    module.register_module("norm1", nn.Identity())
                    module.register_module("attn1", _Nothing())
        # Every attention with the level of the U-Net, 0 being the finest, at which it works.
        self._attentions = [
            (level, module)
            for level, block in zip(places, blocks, strict=True)
            for module in block.modules()
            if isinstance(module, SABlock | CrossAttentionBlock)
        ]
        self._fuse_attention(None)
        make_precise(self)

    def _fuse_attention(self, voxels: int | None, words: int = 0) -> None:
        """Switch attentions between PyTorch's fused kernel and MONAI's matrix products; the result is the same.

        MONAI's constructor refuses the fused kernel without CUDA, but PyTorch has it on every device. Its backward
        pass on a CPU is slower than matrix products for the few voxels of a small latent (a tenth of a training step),
        and several times faster for the many of a large one.

        Args:
            voxels: of the latent that a CPU is to train on; None fuses every attention.
            words: of the context.
        """
        for level, module in self._attentions:
            if voxels is None:
                module.use_flash_attention = True
                continue
            queries = voxels / 2 ** (level * self.config.spatial_dims)
            keys = words if words and isinstance(module, CrossAttentionBlock) else queries
            module.use_flash_attention = queries * keys >= FUSED_PAIRS

    def forward(  # type: ignore[override]
        self, z: Tensor, t: Tensor, context: Tensor | None, class_input: Tensor, spacing_mm: Tensor
    ) -> Tensor:
        """Predict from a noisy latent what the schedule asks for (noise, velocity or sample).

        Args:
            z: noisy latent, [B, in_channels, x, y, z].
            t: timesteps, [B].
            context: [B, N, context_width]; None exactly where the U-Net was built without.
            class_input: [B, classes] in percent, the class probabilities times 100.
            spacing_mm: voxel spacing of the image along x, y, z in mm, [B, 3].

        Returns:
            prediction, [B, out_channels, x, y, z].

        Raises:
            ValueError: context given to a U-Net without cross-attention, or missing where it has one.
        """
        if (context is not None) != self.with_conditioning:
            have, given = ("", "none") if self.with_conditioning else ("no ", "one")
            raise ValueError(f"This U-Net has {have}cross-attention, and {given} context was given.")
        training = z.device.type == "cpu" and torch.is_grad_enabled()
        self._fuse_attention(z[0, 0].numel() if training else None, 0 if context is None else context.shape[1])
        time = self._get_time_and_class_embedding(z, t, None)
        spacing = (spacing_mm * SPACING_SCALE).to(z.dtype)
        parts = [time, self.pirads_layer(class_input.to(z.dtype)), self.spacing_layer(spacing)]
        embedding = torch.cat(parts, dim=1)
        seen = torch.cat([z, _coordinates(z)], dim=1) if self.config.coordinates else z
        h, skips = self._apply_down_blocks(self.conv_in(seen), embedding, context, None)
        h = self.middle_block(h, embedding, context)
        prediction: Tensor = self.out(self._apply_up_blocks(h, embedding, context, skips))
        return prediction


class _Nothing(nn.Module):
    """Stands where self-attention would be; the block adds its result to what was there."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero."""
        return x.new_zeros(())


def _coordinates(z: Tensor) -> Tensor:
    """Centre of each voxel along each axis, scaled, 0 in the middle: [B, axes, ...] for latents [B, C, ...]."""
    axes = []
    for axis, size in enumerate(z.shape[2:]):
        line = COORDINATE_SCALE * ((2 * torch.arange(size, device=z.device, dtype=torch.float32) + 1) / size - 1)
        axes.append(line.view([-1 if a == axis else 1 for a in range(z.ndim - 2)]).expand(z.shape[2:]))
    return torch.stack(axes).to(z.dtype).expand(z.shape[0], -1, *z.shape[2:])

"""The published training step written plainly: MONAI's U-Net, torch's attention layers, the loss as published.

Parameter names are those of the published model, so the weights of ours load into it and both can be compared.
"""

import math
from typing import Any

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn
from torch.nn import functional

# The published text encoder pads every report to its window.
WINDOW = 512


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.linear(functional.silu(time)).view(len(x), 1, -1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.ln_1, self.ln_2, self.ln_ff = Norm(width), Norm(width), Norm(width)

    def forward(self, latents: Tensor, text: Tensor, time: Tensor) -> Tensor:
        normed = self.ln_1(latents, time)
        keys = torch.cat([normed, self.ln_2(text, time)], dim=1)
        latents = latents + self.attn(query=normed, key=keys, value=keys, need_weights=False)[0]
        hidden = functional.relu(self.mlp["c_fc"](self.ln_ff(latents, time))) ** 2
        return latents + self.mlp["c_proj"](hidden)


class Adaptor(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, 2)

    def forward(self, latents: Tensor) -> Tensor:
        return self.fc2(functional.relu(self.fc1(latents.flatten(1))))


class Connector(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, blocks = config["width"], range(config["blocks"])
        self.latents = nn.Parameter(torch.randn(config["latents"], width))
        self.time_aware_linear = nn.Linear(width, width)
        self.proj_in = nn.Linear(config["text_width"], width)
        self.perceiver_blocks = nn.ModuleList(Block(width, config["heads"]) for _ in blocks)
        self.cascade_blocks = nn.ModuleList(Adaptor(config["latents"] * width, config["class_hidden"]) for _ in blocks)

    def forward(self, text: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        text = self.proj_in(text)
        latents = self.latents.unsqueeze(0).repeat(len(text), 1, 1)
        latents = latents + self.time_aware_linear(functional.silu(time))[:, None]
        values = []
        for block, adaptor in zip(self.perceiver_blocks, self.cascade_blocks, strict=True):
            latents = block(latents, text, time)
            values.append(adaptor(latents))
        return latents, torch.cat(values, dim=1)


class Adapter(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.channels = config["time_channels"]
        width = config["width"]
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(self.channels, width), "linear_2": nn.Linear(width, width)}
        )
        self.connector = Connector(config)

    def forward(self, text: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        half = self.channels // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        time = self.time_embedding["linear_2"](functional.silu(self.time_embedding["linear_1"](features)))
        return self.connector(text, time)


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class UNet(DiffusionModelUNetMaisi):
    def __init__(self, config: dict[str, Any], context: int) -> None:
        self.coordinates = bool(config.get("coordinates"))
        super().__init__(
            spatial_dims=3, in_channels=config["in_channels"] + 3 * self.coordinates,
            out_channels=config["out_channels"], num_channels=config["channels"],
            num_res_blocks=config["num_res_blocks"],
            attention_levels=config["attention_levels"], num_head_channels=config["num_head_channels"],
            norm_num_groups=config["norm_num_groups"], with_conditioning=True, cross_attention_dim=context,
            include_top_region_index_input=True, include_spacing_input=True,
        )  # fmt: skip
        del self.top_region_index_layer
        self.pirads_layer = self._create_embedding_module(2, 4 * config["channels"][0])
        for level, kept in enumerate(config.get("self_attention_levels", [])):
            for block in [] if kept else [self.down_blocks[level], self.up_blocks[-1 - level]]:
                for each in block.modules():
                    if hasattr(each, "attn1"):
                        each.norm1, each.attn1 = nn.Identity(), Zero()

    def forward(self, z: Tensor, t: Tensor, context: Tensor, classes: Tensor, spacing: Tensor) -> Tensor:
        time = self._get_time_and_class_embedding(z, t, None)
        embedding = torch.cat([time, self.pirads_layer(classes), self.spacing_layer(spacing * 100)], dim=1)
        if self.coordinates:
            lines = [4 * ((2 * torch.arange(size) + 1) / size - 1) for size in z.shape[2:]]
            z = torch.cat(
                [z, torch.stack(torch.meshgrid(*lines, indexing="ij")).to(z).expand(len(z), -1, -1, -1, -1)], 1
            )
        h, skips = self._apply_down_blocks(self.conv_in(z), embedding, context, None)
        h = self.middle_block(h, embedding, context)
        prediction: Tensor = self.out(self._apply_up_blocks(h, embedding, context, skips))
        return prediction


class Denoiser(nn.Module):
    """Adapter, class head and U-Net; `config` is the table of the card."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.ella = Adapter(config["adapter"])
        self.classifier = nn.Linear(2 * config["adapter"]["blocks"], 2)
        self.unet = UNet(config["unet"], config["adapter"]["width"])

    def forward(self, z: Tensor, t: Tensor, text: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
        context, values = self.ella(text, t)
        logits = self.classifier(values)
        return self.unet(z, t, context, logits.softmax(dim=1) * 100, spacing), logits


def plain_loss(network: Denoiser, batch: dict[str, Tensor], class_weight: float) -> Tensor:
    """L1 on the noise and the focal loss, on a batch of z, eps, t, text, spacing_mm, class_label and class_counts."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alphas = torch.cumprod(1 - betas, dim=0).to(batch["z"].device)[batch["t"]].view(-1, 1, 1, 1, 1)
    noisy = alphas.sqrt() * batch["z"] + (1 - alphas).sqrt() * batch["eps"]
    prediction, logits = network(noisy, batch["t"], batch["text"], batch["spacing_mm"])
    loss = functional.l1_loss(prediction.float(), batch["eps"])
    targets = functional.one_hot(batch["class_label"].clamp(min=0), 2).float()
    log_p = (logits.float().log_softmax(dim=1) * targets).sum(dim=1)
    weight = 0.25 * targets[:, 0] + 0.75 * targets[:, 1]
    focal = -weight * (1 - log_p.exp()) ** 2 * log_p / 2
    return loss + class_weight * (focal * batch["class_counts"]).mean()

"""The adapter `ella`: report tokens and a timestep become the U-Net's context and the class logits.

A timestep-aware perceiver resampler (Hu et al. 2024, "ELLA: Equip Diffusion Models with LLM for Enhanced Semantic
Alignment") with a class adaptor after every block (CCELLA). Parameter names are those of the published models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import AdapterConfig

TIME_PERIOD = 10000.0
MLP_FACTOR = 4
NORM_EPS = 1e-6


def embed_timestep(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal timestep features, cosines first.

    Args:
        t: timesteps, [B].
        channels: even number of features.

    Returns:
        float32 [B, channels]: cos(t f_i) then sin(t f_i), f_i = 10000^(-i / (channels / 2)). Source: Ho et al. 2020
        with `flip_sin_to_cos` and no downscale shift.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(TIME_PERIOD) * exponents)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two linear layers with SiLU between: [B, channels] to [B, width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map sinusoidal features to the embedding."""
        return self.linear_2(functional.silu(self.linear_1(features)))


class AdaptiveNorm(nn.Module):
    """AdaLN: layer norm without weights, then shift and scale from the timestep, both zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Normalise x [B, L, width] and modulate it by time [B, width]."""
        shift, scale = self.linear(functional.silu(time))[:, None].chunk(2, dim=-1)
        return functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention with the parameter names of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from queries [B, N, D] to keys [B, K, D]; mask [B, K] is True where a key counts."""
        width = queries.shape[-1]
        q = functional.linear(queries, self.in_proj_weight[:width], self.in_proj_bias[:width])
        kv = functional.linear(keys, self.in_proj_weight[width:], self.in_proj_bias[width:])
        k, v = kv.chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(
            self._split(q), self._split(k), self._split(v), attn_mask=None if mask is None else mask[:, None, None]
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, heads, L, D / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """MLP x4 with squared ReLU (So et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, MLP_FACTOR * width)
        self.c_proj = nn.Linear(MLP_FACTOR * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, width] to the same shape."""
        return self.c_proj(functional.relu(self.c_fc(x)).square())


class PerceiverBlock(nn.Module):
    """Latents attend to themselves and to the text, then pass through an MLP; both steps are residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width)
        self.ln_1 = AdaptiveNorm(width)
        self.ln_2 = AdaptiveNorm(width)
        self.ln_ff = AdaptiveNorm(width)

    def forward(self, latents: Tensor, text: Tensor, time: Tensor, mask: Tensor | None) -> Tensor:
        """Update latents [B, N, D] from text [B, L, D], time [B, D] and the key mask [B, N + L]."""
        normed = self.ln_1(latents, time)
        latents = latents + self.attn(normed, torch.cat([normed, self.ln_2(text, time)], dim=1), mask)
        return latents + self.mlp(self.ln_ff(latents, time))


class ClassAdaptor(nn.Module):
    """All latents of one block, flattened, to one value per class."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents [B, N, D] to [B, classes]."""
        return self.fc2(functional.relu(self.fc1(latents.flatten(1))))


class Connector(nn.Module):
    """The perceiver resampler: learned latents read the text once per block.

    `class_head` says which blocks feed the class head: `each` has an adaptor of its own (as published), `shared` one
    adaptor for all blocks, `first` and `last` one adaptor on that block, `none` no adaptor.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(config.width**-0.5 * torch.randn(config.latents, config.width))
        self.time_aware_linear = nn.Linear(config.width, config.width)
        self.proj_in = nn.Linear(config.text_width, config.width)
        self.perceiver_blocks = nn.ModuleList(PerceiverBlock(config.width, config.heads) for _ in range(config.blocks))
        everywhere = tuple(range(config.blocks))
        self.read_after: tuple[int, ...] = {
            "each": everywhere, "shared": everywhere, "first": everywhere[:1], "last": everywhere[-1:], "none": (),
        }[config.class_head]  # fmt: skip
        count = {"each": config.blocks, "none": 0}.get(config.class_head, 1)
        self.cascade_blocks = nn.ModuleList(
            ClassAdaptor(config.latents * config.width, config.class_hidden, config.classes) for _ in range(count)
        )

    def forward(self, text: Tensor, mask: Tensor | None, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the latents [B, N, D] and the class values [B, classes] of every block that is read."""
        text = self.proj_in(text).expand(time.shape[0], -1, -1)
        latents = self.latents[None] + self.time_aware_linear(functional.silu(time))[:, None]
        if mask is not None:
            own = torch.ones(time.shape[0], latents.shape[1], dtype=torch.bool, device=mask.device)
            mask = torch.cat([own, mask.expand(time.shape[0], -1)], dim=1)
        values: list[Tensor] = []
        for index, block in enumerate(self.perceiver_blocks):
            latents = block(latents, text, time, mask)
            if index in self.read_after:
                values.append(self.cascade_blocks[min(len(values), len(self.cascade_blocks) - 1)](latents))
        return latents, values


class Adapter(nn.Module):
    """Report tokens and timestep to context and class logits.

    Args:
        config: the numbers of the adapter.
        classifier: the last layer of the class head, None with `class_head = "none"`. The published models keep it
            beside the adapter, not in it, so it is referred to here and registered by the denoiser.
    """

    def __init__(self, config: AdapterConfig, classifier: nn.Linear | None) -> None:
        super().__init__()
        self.config = config
        self.time_embedding = TimeEmbedding(config.time_channels, config.width)
        self.connector = Connector(config)
        # not `self.classifier = ...`: that would register it and add its parameters under a second name
        object.__setattr__(self, "classifier", classifier)

    def forward(self, text: Tensor, mask: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the context and the class logits.

        Args:
            text: token features of the reports, [B, L, text_width]; or [1, L, text_width] for one report at all
                timesteps.
            mask: [B, L] (or [1, L]) bool, True at real tokens, False at padding; None where nothing is padded.
            t: timesteps, [B].

        Returns:
            context [B, latents, width] and class logits [B, classes]. Without a class head the logits are zero: every
            class is equally likely.
        """
        features = embed_timestep(t, self.config.time_channels).to(text.dtype)
        context, values = self.connector(text, mask, self.time_embedding(features))
        classifier: nn.Linear | None = self.__dict__["classifier"]
        if classifier is None:
            return context, context.new_zeros(t.shape[0], self.config.classes)
        return context, classifier(torch.cat(values, dim=-1))


def build_classifier(config: AdapterConfig) -> nn.Linear | None:
    """The class head's last layer: the values of all blocks that are read, concatenated, to logits."""
    read = {"each": config.blocks, "shared": config.blocks, "none": 0}.get(config.class_head, 1)
    return nn.Linear(read * config.classes, config.classes) if read else None

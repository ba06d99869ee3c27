"""The small T5 text encoder: building, saving, pooling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..imaging.atomic import write_bytes, write_json
from .randomness import NETWORK, derive_seed, scoped_seed

if TYPE_CHECKING:
    from transformers import T5EncoderModel


@dataclass(frozen=True)
class EncoderShape:
    """Size of the encoder and its tokenizer."""

    width: int = 128
    head_width: int = 32
    heads: int = 4
    hidden: int = 256
    layers: int = 3
    vocabulary: int = 1536
    window: int = 512


def build_encoder(shape: EncoderShape, seed: int) -> T5EncoderModel:
    """Return an untrained T5 encoder (gated GELU, no dropout) whose weights depend on the seed alone."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=shape.head_width,
        num_heads=shape.heads,
        d_ff=shape.hidden,
        num_layers=shape.layers,
        feed_forward_proj="gated-gelu_pytorch_tanh",  # the same function as T5's "gelu_new", in one kernel
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        use_cache=False,
        is_encoder_decoder=False,
    )
    with scoped_seed(derive_seed(seed, NETWORK)):
        return T5EncoderModel(config)


def save_encoder(encoder: T5EncoderModel, folder: Path, dtype: str = "float16") -> None:
    """Write config.json and model.safetensors as `T5EncoderModel.from_pretrained` reads them.

    Args:
        encoder: On any device.
        folder: Where to.
        dtype: float32, float16 or bfloat16: the type the weights are stored in.
    """
    from safetensors.torch import save

    config = {**encoder.config.to_diff_dict(), "architectures": ["T5EncoderModel"], "dtype": dtype}
    weights = {
        name: parameter.detach().to("cpu", getattr(torch, dtype)).contiguous()
        for name, parameter in encoder.named_parameters()
    }
    write_json(folder / "config.json", config)
    write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))


def pool_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [B, W] of the tokens [B, L, W] where the mask [B, L] is true."""
    weights = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def thin_mask(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Drop a random share (0 to 70 %, per item) of the tokens from the mask [B, L], never all of them.

    A mean over any part of the tokens has to tell the findings, so that they spread over all tokens.
    """
    keep = 0.3 + 0.7 * torch.rand(mask.shape[0], 1, generator=generator)
    thinned = mask & (torch.rand(mask.shape, generator=generator) < keep)
    thinned[:, 0] |= ~thinned.any(1)
    return thinned

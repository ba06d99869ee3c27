"""CCELLA and CCELLA++: a radiology report in, MRI sequences and their class out."""

from .blocks import recomputed_blocks, sharded_blocks
from .graphs import assemble, graphs, shape_multiple
from .parts import build, text_width
from .stages import (
    Conditions,
    Plan,
    decode_latent,
    encode_image,
    prepare,
    scale_latent,
    training_forward,
    unscale_latent,
)
from .text import TextEncoder

__all__ = [
    "Conditions",
    "Plan",
    "TextEncoder",
    "assemble",
    "build",
    "decode_latent",
    "encode_image",
    "graphs",
    "prepare",
    "recomputed_blocks",
    "scale_latent",
    "shape_multiple",
    "sharded_blocks",
    "text_width",
    "training_forward",
    "unscale_latent",
]

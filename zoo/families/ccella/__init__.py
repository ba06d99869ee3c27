"""CCELLA and CCELLA++: a radiology report in, MRI sequences and their class out."""

from .blocks import recomputed_blocks, sharded_blocks
from .conditioning import Conditions, Plan, prepare
from .decode_plans import plan_decode
from .graphs import TIMESTEPS_AT_ONCE, asked_sizes, assemble, graphs, shape_multiple
from .parts import build, class_input, text_width
from .stages import (
    DECODE_MEMORY_BYTES,
    decode_latent,
    encode_image,
    scale_latent,
    training_forward,
    unscale_latent,
)
from .text import TextEncoder

__all__ = [
    "DECODE_MEMORY_BYTES",
    "TIMESTEPS_AT_ONCE",
    "Conditions",
    "Plan",
    "TextEncoder",
    "asked_sizes",
    "assemble",
    "build",
    "class_input",
    "decode_latent",
    "encode_image",
    "graphs",
    "plan_decode",
    "prepare",
    "recomputed_blocks",
    "scale_latent",
    "shape_multiple",
    "sharded_blocks",
    "text_width",
    "training_forward",
    "unscale_latent",
]

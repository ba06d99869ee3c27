"""CCELLA and CCELLA++: a radiology report in, MRI sequences and their class out."""

from .parts import build
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

__all__ = [
    "Conditions",
    "Plan",
    "build",
    "decode_latent",
    "encode_image",
    "prepare",
    "scale_latent",
    "training_forward",
    "unscale_latent",
]

"""Builds the networks that a card of this family names."""

from torch import nn

from ...card import Card, Part
from ...errors import CardError
from .autoencoder import build_autoencoder
from .config import ClassInput, read_settings
from .denoiser import DenoiserConfig, build_denoiser

_BUILDERS = {"maisi_autoencoder": build_autoencoder, "ccella_denoiser": build_denoiser}


def build(part: Part) -> nn.Module:
    """The network of a part with random weights.

    Raises:
        CardError: The card names an architecture that this family does not have.
    """
    if part.architecture not in _BUILDERS:
        raise CardError(
            f"Part {part.name} has the architecture {part.architecture!r}.",
            f"This family builds: {', '.join(_BUILDERS)}.",
        )
    return _BUILDERS[part.architecture](part.config)


def class_input(card: Card) -> ClassInput:
    """Where the denoiser gets the class from: "predicted" where none is given, always "given", or "none" at all."""
    config = card.part("denoiser").config
    own = {key: value for key, value in config.items() if key not in ("adapter", "unet")}
    return read_settings(DenoiserConfig, own, "denoiser").class_input


def text_width(card: Card) -> int:
    """Features per token that the card's denoiser expects of a text encoder."""
    return int(card.part("denoiser").config["adapter"]["text_width"])

"""The parts of the networks that training handles one by one: recomputed in the backward pass, or shared out."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from .autoencoder import Autoencoder
from .denoiser import CcellaDenoiser


def recomputed_blocks(network: nn.Module) -> Sequence[nn.Module]:
    """Blocks whose activations are worth dropping between the passes; none lies inside another.

    Single residual and attention blocks, not whole levels: what is recomputed at once has to fit into memory too. The
    adapter's activations are few.

    Args:
        network: A denoiser or an autoencoder.
    """
    if isinstance(network, Autoencoder):
        return _modules(network.encoder, "blocks") + _modules(network.decoder, "blocks")
    assert isinstance(network, CcellaDenoiser)
    unet = network.unet
    blocks: list[nn.Module] = []
    for level in [*unet.down_blocks.children(), *unet.up_blocks.children()]:
        blocks += _modules(level, "resnets") + _modules(level, "attentions")
    middle: Any = unet.middle_block
    return [*blocks, middle.resnet_1, middle.attention, middle.resnet_2]


def _modules(level: nn.Module, name: str) -> list[nn.Module]:
    return list(getattr(level, name, []))


def sharded_blocks(denoiser: nn.Module) -> Sequence[nn.Module]:
    """Modules of a denoiser whose weights FSDP gathers together, children before parents, the denoiser itself last."""
    assert isinstance(denoiser, CcellaDenoiser)
    connector, unet = denoiser.ella.connector, denoiser.unet
    levels = [*unet.down_blocks, unet.middle_block, *unet.up_blocks]
    return [*connector.perceiver_blocks, *connector.cascade_blocks, *levels, denoiser]

"""EfficientNet (Tan and Le 2019) in two or three dimensions, through MONAI."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ....imaging.spec import ImageSpec
from ...card import Part
from ...errors import CardError

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE = "efficientnet"
# Table 1 of the paper: repeats, kernel, stride, expansion, channels in and out, squeeze and excitation.
BLOCKS = [
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
]
# Five layers halve the image, and MONAI fixes their padding for sizes that stay even.
REDUCTION = 32
# Every key of the part's config; B0 is width = depth = 1. `batch_norm_momentum` is the weight of the newest batch in
# the running statistics: the published 0.01 needs hundreds of steps to forget where it began. `zero_head` starts with
# both classes equally likely: MONAI draws the last layer for a thousand classes, so for two its logits begin far apart,
# and a short training spends most of its steps on undoing that.
DEFAULTS: Mapping[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 3,
    "classes": 2,
    "width": 1.0,
    "depth": 1.0,
    "dropout": 0.2,
    "drop_connect": 0.2,
    "batch_norm_momentum": 0.01,
    "zero_head": False,
}


def build(part: Part) -> "nn.Module":
    """The classifier of a part with random weights: images B C and the axes in, logits B classes out.

    Raises:
        CardError: The architecture or a key of the config is unknown, or a value has the wrong type.
    """
    from monai.networks.nets.efficientnet import EfficientNet

    if part.architecture != ARCHITECTURE:
        raise CardError(
            f"Part {part.name} has the architecture {part.architecture!r}.", f"This family builds: {ARCHITECTURE}."
        )
    settings = _read(part.config)
    network = EfficientNet(
        BLOCKS,
        spatial_dims=settings["spatial_dims"],
        in_channels=settings["in_channels"],
        num_classes=settings["classes"],
        width_coefficient=settings["width"],
        depth_coefficient=settings["depth"],
        dropout_rate=settings["dropout"],
        drop_connect_rate=settings["drop_connect"],
        norm=("batch", {"eps": 1e-3, "momentum": settings["batch_norm_momentum"]}),
    )
    if settings["zero_head"]:
        head: Any = network.get_submodule("_fc")
        for value in head.parameters():
            value.data.zero_()
    return network


def check_grid(part: Part, image: ImageSpec) -> None:
    """Raises CardError where the network of a part does not fit a card's image."""
    settings = _read(part.config)
    if settings["in_channels"] != len(image.channels):
        raise CardError(
            f"Part {part.name} has {settings['in_channels']} in_channels for {len(image.channels)} image channels.",
            "Make both equal.",
        )
    if settings["spatial_dims"] != len(image.axes) or any(size % REDUCTION for size in image.shape):
        raise CardError(
            f"An image of {list(image.shape)} does not fit a network of {settings['spatial_dims']} dimensions that "
            f"divides every axis by {REDUCTION}.",
            f"Give every axis a multiple of {REDUCTION}.",
        )


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in config.items():
        if key not in DEFAULTS:
            raise CardError(f"The classifier's config has the unknown key {key!r}.", f"Known: {', '.join(DEFAULTS)}.")
        wanted = type(DEFAULTS[key])
        number = type(value) is wanted or (wanted is float and type(value) is int)
        if not number or not value >= 0:
            raise CardError(f"{key} of the classifier's config is {value!r}.", f"Give a positive {wanted.__name__}.")
    return {**DEFAULTS, **config}

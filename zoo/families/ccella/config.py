"""Typed settings of the CCELLA networks, read from the plain tables of a card.

A card gives numbers only; the full-size and the small models differ in these and in nothing else. A key that is not
known, a key that is missing and a value of the wrong kind are errors that name the key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from ...errors import CardError

ClassHead = Literal["each", "shared", "first", "last", "none"]
ClassInput = Literal["predicted", "given", "none"]
Start = Literal["random", "cosine"]

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class AutoencoderConfig:
    """Numbers of the MAISI autoencoder (Guo et al. 2024, MAISI)."""

    channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    in_channels: int = 1
    out_channels: int = 1
    latent_channels: int = 4
    spatial_dims: int = 3
    transposed_upsampling: bool = False
    start: Start = "random"
    cosine_axis_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_same_length("num_res_blocks", self.num_res_blocks, self.channels)
        check_divisible("channels", self.channels, self.norm_num_groups)
        check_choice("start", self.start, get_args(Start))
        if self.start == "cosine":
            self._check_cosine()

    def _check_cosine(self) -> None:
        roomy = len(self.channels) == 3 and self.channels[0] >= 8 and self.channels[0] // self.norm_num_groups >= 4
        if not (
            roomy and self.transposed_upsampling and self.in_channels == 1 and self.latent_channels <= self.channels[1]
        ):
            raise CardError(
                'start = "cosine" does not fit this autoencoder.',
                "It needs transposed_upsampling, one image channel, three levels, eight channels or more in the first, "
                "four or more in each normalisation group, and no more latent channels than the second level has.",
            )


@dataclass(frozen=True)
class AdapterConfig:
    """Numbers of the adapter `ella`: `width` is the width of the context that the U-Net attends to."""

    width: int
    text_width: int
    latents: int
    heads: int
    blocks: int
    class_hidden: int
    time_channels: int = 320
    classes: int = 2
    class_head: ClassHead = "each"

    def __post_init__(self) -> None:
        check_choice("class_head", self.class_head, get_args(ClassHead))
        check_divisible("width", (self.width,), self.heads)
        check_divisible("time_channels", (self.time_channels,), 2)


@dataclass(frozen=True)
class UNetConfig:
    """Numbers of the U-Net; its context width and class count come from the adapter's table.

    With `coordinates`, the first convolution also sees where each latent voxel lies (Liu et al. 2018, "An intriguing
    failing of convolutional neural networks and the CoordConv solution"): left and right of a symmetric anatomy look
    alike, and a small U-Net hardly learns them from the zeros beyond the border.

    `self_attention_levels` says which of the `attention_levels` attend to the latent besides the report; none given
    means all. Attention to the latent grows with the square of its voxels, attention to the report with their number.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_head_channels: int
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    transformer_num_layers: int = 1
    spatial_dims: int = 3
    coordinates: bool = False
    self_attention_levels: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        check_same_length("num_res_blocks", self.num_res_blocks, self.channels)
        check_same_length("attention_levels", self.attention_levels, self.channels)
        if self.self_attention_levels:
            check_same_length("self_attention_levels", self.self_attention_levels, self.channels)
            if any(
                own and not attends
                for own, attends in zip(self.self_attention_levels, self.attention_levels, strict=True)
            ):
                raise CardError(
                    "`self_attention_levels` names a level that `attention_levels` leaves without attention.",
                    "Set both for that level, or neither.",
                )
        check_divisible("channels", self.channels, self.norm_num_groups)
        attended = [width for width, attend in zip(self.channels, self.attention_levels, strict=True) if attend]
        check_divisible("channels", (*attended, self.channels[-1]), self.num_head_channels)

    def attends_to_itself(self, level: int) -> bool:
        """Whether the attention of a level, 0 being the finest, looks at the latent besides the report."""
        return not self.self_attention_levels or self.self_attention_levels[level]


def read_settings(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """Read one table of a card into a frozen dataclass.

    Args:
        kind: the dataclass to fill.
        table: keys and values as `tomllib` gives them.
        where: name of the table, for messages.

    Raises:
        CardError: unknown or missing key, or a value that the dataclass refuses.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(known)}."
            raise CardError(f"The {where} table has the unknown key `{key}`.", remedy)
    missing = [name for name, field in known.items() if field.default is MISSING and name not in table]
    if missing:
        raise CardError(f"The {where} table lacks `{missing[0]}`.", f"Add {', '.join(missing)} to the card.")
    values = {key: _read_value(key, value, str(known[key].type), where) for key, value in table.items()}
    return kind(**values)


def _read_value(key: str, value: object, declared: str, where: str) -> object:
    """Check one value against its declared type; lists become tuples."""
    if declared.startswith("tuple"):
        if isinstance(value, (list, tuple)) and value:
            inner = declared.removeprefix("tuple[").split(",")[0]
            return tuple(_read_value(key, item, inner, where) for item in value)
        raise CardError(f"`{key}` of the {where} table is {value!r}, not a list.", "Write one value per level.")
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}
    wanted = kinds.get(declared, (str,))
    # bool is a subclass of int, so `latents = true` would pass for 1 without the second test
    if not isinstance(value, wanted) or (isinstance(value, bool) and declared != "bool"):
        raise CardError(f"`{key}` of the {where} table is {value!r}.", f"It has to be of type {declared}.")
    if declared == "int" and isinstance(value, int) and value < 1:
        raise CardError(f"`{key}` of the {where} table is {value}.", "It has to be 1 or more.")
    return value


def check_same_length(name: str, values: tuple[Any, ...], channels: tuple[int, ...]) -> None:
    """Raise CardError unless there is one value per level."""
    if len(values) != len(channels):
        raise CardError(
            f"`{name}` has {len(values)} values for {len(channels)} levels.", f"Give {len(channels)} values."
        )


def check_divisible(name: str, values: tuple[int, ...], divisor: int) -> None:
    """Raise CardError unless every value is a multiple of `divisor`."""
    for value in values:
        if value % divisor:
            raise CardError(f"`{name}` has {value}, which is not a multiple of {divisor}.", "Change either number.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise CardError unless `value` is one of `choices`."""
    if value not in choices:
        raise CardError(f"`{name}` is {value!r}.", f"Choose one of {', '.join(choices)}.")

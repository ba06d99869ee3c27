"""What a model expects of an image: axes, grid and channels, for volumes and tiles alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InputError


@dataclass(frozen=True)
class Channel:
    """One channel of an image.

    Args:
        name: Short name, also the ending of file names (`t2w`, `adc`, `red`).
        unit: Unit of the stored values (`1e-6 mm2/s`, `a.u.`).
        intensity: Table for `intensity.parse_intensity`.
        description: For people.
    """

    name: str
    unit: str
    intensity: Mapping[str, object]
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name or not all(letter.isalnum() or letter in "_-" for letter in self.name):
            raise InputError(
                f"Channel name {self.name!r} is not usable in a file name.", "Use letters, digits, '_' and '-' only."
            )


@dataclass(frozen=True)
class ImageSpec:
    """The grid and channels of an image.

    Args:
        axes: One lower-case letter per spatial axis in array order: `xyz` for volumes, `yx` for tiles.
        shape: Number of samples along each axis, in the order of `axes`.
        spacing_mm: Distance between samples along each axis in mm; None leaves the spacing of the source alone.
        orientation: Anatomical direction to which each index grows (`RAS`); None where there is no anatomy.
        channels: Channels in tensor order.
    """

    axes: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    orientation: str | None
    channels: tuple[Channel, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        count = len(self.axes)
        if count == 0 or len(set(self.axes)) != count or not self.axes.islower():
            raise InputError(
                f"Image axes {self.axes!r} are not distinct lower-case letters.", "Use for example 'xyz' or 'yx'."
            )
        if len(self.shape) != count or any(size < 1 for size in self.shape):
            raise InputError(
                f"Image shape {self.shape} does not give a positive size to each of the axes {self.axes!r}.",
                f"Give {count} positive integers.",
            )
        if self.spacing_mm is not None and (len(self.spacing_mm) != count or any(not s > 0 for s in self.spacing_mm)):
            raise InputError(
                f"Image spacing {self.spacing_mm} mm is not a positive spacing for each of the axes {self.axes!r}.",
                f"Give {count} positive numbers in mm, or none.",
            )
        if self.orientation is not None and len(self.orientation) != count:
            raise InputError(
                f"Image orientation {self.orientation!r} does not name {count} directions.", "Use for example 'RAS'."
            )
        names = self.channel_names
        if not names or len(set(names)) != len(names):
            raise InputError(f"Image channels {list(names)} are empty or repeated.", "Name each channel once.")

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in tensor order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of an array of this image: channels, then the axes."""
        return (len(self.channels), *self.shape)

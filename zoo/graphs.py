"""Graphs: the pieces of a model that other runtimes execute, one file each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A network on named tensors, whatever executes it.
Net = Callable[["Mapping[str, torch.Tensor]"], "dict[str, torch.Tensor]"]
# What the values of an input are; it decides their type and how random ones are drawn.
KINDS = ("normal", "unit", "percent", "spacing_mm", "timestep")


@dataclass(frozen=True)
class GraphInput:
    """An input tensor.

    Attributes:
        name: Of the tensor.
        kind: One of KINDS. Timesteps are int64, spacings float32, everything else has the network's type.
        shape: Per axis a fixed size, or the name of an axis of `Graph.axes`.
    """

    name: str
    kind: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Axis:
    """A dynamic axis.

    Attributes:
        minimum: Smallest size.
        optimum: The size to be fast at.
        maximum: Largest size.
        multiple: Sizes are multiples of it.
    """

    minimum: int
    optimum: int
    maximum: int
    multiple: int = 1


@dataclass(frozen=True)
class Graph:
    """A network that is exported as one file.

    Attributes:
        name: Of the file, such as `decoder`.
        part: The card's part that holds its weights.
        inputs: In the order in which `module` takes them.
        outputs: Names of what it returns, in order.
        axes: The dynamic axes by name.
        module: Makes the network from the loaded part.
        asked_maxima: The largest sizes that this program asks for, of axes that are open wider. What sets memory aside
            for the largest size, as TensorRT does, takes these.
    """

    name: str
    part: str
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, Axis]
    module: "Callable[[torch.nn.Module], torch.nn.Module]"
    asked_maxima: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShapeRange:
    """Image shapes in voxels, in the card's axis order: the smallest, the one to be fast at, and the largest."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]

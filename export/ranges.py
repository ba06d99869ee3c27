"""Whether what is asked of an exported graph lies in the range of shapes that it takes."""

from collections.abc import Mapping, Sequence

from ..imaging.errors import InputError

# `minimum`, `maximum` and `multiple` of each dynamic axis, by name.
Axes = Mapping[str, Mapping[str, int]]


def fits(size: int, axis: Mapping[str, int]) -> bool:
    """Whether an axis takes a size."""
    return axis["minimum"] <= size <= axis["maximum"] and size % axis.get("multiple", 1) == 0


def describe_shape(shape: Sequence[int | str], axes: Axes) -> str:
    """The sizes that an input takes, such as `[1..16, 4, 32..64]`."""
    words = [str(size) if isinstance(size, int) else _span(axes[size]) for size in shape]
    return f"[{', '.join(words)}]"


def find_misfit(
    inputs: Mapping[str, Sequence[int | str]], axes: Axes, found: Mapping[str, Sequence[int]]
) -> str | None:
    """The first input whose shape is not one that a graph takes; None where all are."""
    for name, shape in inputs.items():
        sizes = tuple(found[name])
        if len(sizes) != len(shape):
            return name
        for size, wanted in zip(sizes, shape, strict=True):
            if size != wanted if isinstance(wanted, int) else not fits(size, axes[wanted]):
                return name
    return None


def check_asked(asked: Mapping[str, int], axes: Axes, *, graph: str, what: str, batch_size: int, again: str) -> None:
    """Refuses before any work what a run would ask of a graph in vain.

    Args:
        asked: The size of each axis that the run will ask for.
        axes: What the graph takes.
        graph: Its name.
        what: What takes it, for messages, such as "The TensorRT engine of the decoder".
        batch_size: Items at a time, which the batch that is asked for follows from.
        again: The command that exports it again.

    Raises:
        InputError: A size lies outside of the range.
    """
    for name, size in asked.items():
        if name not in axes or fits(size, axes[name]):
            continue
        if name == "batch":
            largest = batch_size * axes[name]["maximum"] // size
            raise InputError(
                f"--batch-size {batch_size} takes the {graph} in batches of {size}. {what} takes {_span(axes[name])}.",
                f"Use --batch-size {largest} or less." if largest else "Use --runtime torch.",
            )
        raise InputError(f"{what} takes {name} of {_span(axes[name])}, and the model asks for {size}.", again)


def _span(axis: Mapping[str, int]) -> str:
    if axis["minimum"] == axis["maximum"]:
        return str(axis["minimum"])
    return f"{axis['minimum']}..{axis['maximum']}"

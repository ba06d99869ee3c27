"""What a file's header claims of its image, refused before anything is allocated for it."""

from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

MAX_VOXELS = 2**31
# DEFLATE cannot shrink data by more than this factor, so that a file's size bounds what its header may claim.
DEFLATE_LIMIT = 1032


def check_claim(path: Path, shape: Sequence[int], item_bytes: int, present_bytes: int | None) -> None:
    """Refuses what a header claims before anything is allocated for it.

    Args:
        path: For the message.
        shape: Claimed size of each axis.
        item_bytes: Bytes per voxel.
        present_bytes: Bytes that could hold the image at most, or None where that is unknown.

    Raises:
        InputError: An axis is empty, there are more than 2^31 voxels, or more than the file can hold.
    """
    claimed = 1
    for size in shape:
        claimed *= int(size)
    text = " x ".join(str(size) for size in shape)
    if min(shape, default=0) < 1:
        raise InputError(f"{path}: its header claims an image of {text} voxels.", "Write the file again.")
    if claimed > MAX_VOXELS:
        raise InputError(
            f"{path}: its header claims {text} = {claimed:.3g} voxels, more than the {MAX_VOXELS} that are read.",
            "Crop or resample the image, or write the file again if its header is damaged.",
        )
    if present_bytes is not None and claimed * item_bytes > present_bytes:
        raise InputError(
            f"{path}: the file is truncated: its header claims {claimed * item_bytes} bytes of voxels ({text}), "
            f"but it can hold {present_bytes} at most.",
            "Copy or download the file again.",
        )


def check_axes(path: Path, size: Sequence[int]) -> None:
    """Refuses what is not 3-D; a fourth axis of one is let through.

    Args:
        path: For the message.
        size: Size of each axis.

    Raises:
        InputError: There are fewer or more axes.
    """
    if len(size) == 3 or (len(size) == 4 and size[3] == 1):
        return
    raise InputError(
        f"{path} is {len(size)}-D ({' x '.join(str(s) for s in size)}) where 3-D is due.",
        "Give one 3-D image per sequence; split a series into its volumes first.",
    )

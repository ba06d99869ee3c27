"""Previews: one PNG in which a person sees what a run made.

Volumes are shown as radiologists read them: axial slices from superior to inferior, anterior up, the patient's right on
the viewer's left. Enlarging and brightening are for display only; no stored voxel passes through here.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .atomic import write_bytes

if TYPE_CHECKING:
    from PIL import Image, ImageFont

TILE_PX = 176
GAP_PX = 4
MARGIN_PX = 56
LINE_PX = 20
FONT_PX = 14
PAGE_PX = 1400
CAPTION_LINES = 8
CENTRAL_PART = 0.7
# A dark row is brightened by at most this factor, and the factor is written beside it.
MOST_GAIN = 2.5
BACKGROUND = (16, 16, 20)
TEXT_COLOUR = (230, 230, 230)
LABEL_COLOUR = (255, 196, 64)


def _font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """Pillow's own font, so that no font of the machine changes the bytes."""
    from PIL import ImageFont

    return ImageFont.load_default(size=FONT_PX)


def pick_slices(count: int, slices: int) -> list[int]:
    """Chooses slices evenly through the central 70 % of an axis.

    Args:
        count: Length of the axis.
        slices: How many to choose; fewer where the axis is shorter.

    Returns:
        Distinct indices, highest first.
    """
    edge = (1.0 - CENTRAL_PART) / 2.0 * (count - 1)
    return sorted({round(position) for position in np.linspace(edge, count - 1 - edge, slices).tolist()}, reverse=True)


def axial_view(array: np.ndarray, index: int) -> np.ndarray:
    """Turns one axial slice of an RAS array into an image: anterior up, patient's right on the viewer's left.

    Args:
        array: `[x, y, z]`, growing to right, anterior, superior.
        index: Slice along z.

    Returns:
        Image `[row, column]`.
    """
    return array[::-1, ::-1, index].T


def _enlarge(image: np.ndarray, pixel_mm: tuple[float, float]) -> "Image.Image":
    """Enlarges an image `[row, column(, 3)]` in 0..1 to the tile's size, with square pixels.

    Args:
        image: What to show.
        pixel_mm: Height and width of a pixel in mm.
    """
    from PIL import Image

    height, width = image.shape[0] * pixel_mm[0], image.shape[1] * pixel_mm[1]
    scale = TILE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    layers = np.atleast_3d(np.asarray(image, dtype=np.float32))
    # In floating point, so that the overshoot of the kernel is clipped once, at the end.
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(layer)).resize(size, Image.Resampling.BICUBIC))
        for layer in np.moveaxis(layers, -1, 0)
    ]
    levels = np.rint(np.clip(np.stack(resized, axis=-1), 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels)


def _is_tile(array: np.ndarray) -> bool:
    """Tells a tile `[y, x]` or `[y, x, 3]` from a volume."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"An array of shape {array.shape} is neither a volume [x, y, z] nor a tile [y, x(, 3)].")
    return array.ndim == 2 or array.shape[-1] == 3


def _shown_slices(arrays: Sequence[np.ndarray], slices: int) -> list[int]:
    """Chooses slices through the part of the z axis that is not empty, as padding is."""
    depth = min(array.shape[2] for array in arrays)
    full = [k for k in range(depth) if any(np.ptp(array[:, :, k]) > 0 for array in arrays)] or list(range(depth))
    return [full[0] + k for k in pick_slices(full[-1] - full[0] + 1, slices)]


def _gain(images: Sequence[np.ndarray]) -> float:
    """Factor that brings the brightest 0.2 % of a row to white; never below 1."""
    bright = max(float(np.percentile(np.concatenate([image.ravel() for image in images]), 99.8)), 1e-6)
    return min(MOST_GAIN, max(1.0, 1.0 / bright))


def _row(name: str, images: Sequence[np.ndarray], pixel_mm: tuple[float, float]) -> tuple[str, list["Image.Image"]]:
    """Makes the tiles of one channel and the text beside them."""
    if not all(np.isfinite(image).all() for image in images):
        raise ValueError(f"Channel {name!r} holds NaN or infinite values and cannot be shown.")
    gain = _gain(images)
    text = f"{name}\nx{gain:.1f}" if gain >= 1.05 else name
    return text, [_enlarge(image * gain, pixel_mm) for image in images]


def _rows(
    volumes: Mapping[str, np.ndarray], slices: int, spacing_mm: Sequence[float] | None
) -> list[tuple[str, list["Image.Image"]]]:
    """The rows of one item: text and tiles."""
    if not volumes:
        raise ValueError("A preview needs at least one channel.")
    spacing = tuple(spacing_mm) if spacing_mm is not None else (1.0,) * 3
    arrays = {name: np.asarray(array, dtype=np.float32) for name, array in volumes.items()}
    stacks = [array for array in arrays.values() if not _is_tile(array)]
    chosen = _shown_slices(stacks, slices) if stacks else []
    rows = []
    for name, array in arrays.items():
        if _is_tile(array):
            rows.append(_row(name, [array], (spacing[0], spacing[1])))
        else:
            rows.append(_row(name, [axial_view(array, k) for k in chosen], (spacing[1], spacing[0])))
    return rows


def _block(
    volumes: Mapping[str, np.ndarray], slices: int, spacing_mm: Sequence[float] | None, caption: str, label: str | None
) -> "Image.Image":
    """Draws one item: caption, then one row per channel."""
    from PIL import Image, ImageDraw

    font = _font()
    rows = _rows(volumes, slices, spacing_mm)
    width = MARGIN_PX + max(sum(tile.width + GAP_PX for tile in tiles) for _, tiles in rows)
    heights = [max(tile.height for tile in tiles) + GAP_PX for _, tiles in rows]
    head = [(line, LABEL_COLOUR) for line in ([label] if label else [])]
    head += [(line, TEXT_COLOUR) for line in _wrap(caption, width)]
    y = LINE_PX * len(head) + GAP_PX
    page = Image.new("RGB", (width, y + sum(heights)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for number, (line, colour) in enumerate(head):
        draw.text((GAP_PX, 2 + LINE_PX * number), line, fill=colour, font=font)
    for (text, tiles), height in zip(rows, heights, strict=True):
        draw.text((GAP_PX, y + height // 2), text, fill=TEXT_COLOUR, font=font, anchor="lm")
        x = MARGIN_PX
        for tile in tiles:
            page.paste(tile, (x, y))
            x += tile.width + GAP_PX
        if len(tiles) > 1:
            middle = y + tiles[0].height // 2
            for side, x, anchor in (("R", MARGIN_PX + 4, "lm"), ("L", MARGIN_PX + tiles[0].width - 4, "rm")):
                # Outlined, or it would be lost on bright tissue.
                draw.text((x, middle), side, LABEL_COLOUR, font, anchor, stroke_width=2, stroke_fill=BACKGROUND)
        y += height
    return page


def _wrap(caption: str, width: int) -> list[str]:
    """Breaks a caption into the lines that fit; a longer one ends in an ellipsis."""
    font = _font()
    per_line = max(8, int(width / font.getlength("n")))
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in caption).split())
    return textwrap.wrap(text, per_line, max_lines=CAPTION_LINES, placeholder=" ...")


def mosaic(
    volumes: Mapping[str, np.ndarray],
    slices: int = 7,
    *,
    spacing_mm: Sequence[float] | None = None,
    caption: str = "",
    label: str | None = None,
) -> np.ndarray:
    """Draws one item: rows are channels, columns are axial slices (one column for a tile).

    Args:
        volumes: Per channel an array in 0..1: a volume `[x, y, z]` in RAS, or a tile `[y, x]` or `[y, x, 3]`.
        slices: Number of slices.
        spacing_mm: Spacing along the array's axes in mm, for the aspect ratio; None takes equal spacing.
        caption: Text above the rows.
        label: A word above the caption that must not be missed, such as `synthetic`.

    Returns:
        uint8 image `[row, column, 3]`; the same input gives the same bytes.

    Raises:
        ValueError: There is no channel, or an array has another shape or holds NaN.
    """
    return np.asarray(_block(volumes, slices, spacing_mm, caption, label))


def write_mosaic(
    path: Path | str,
    items: Sequence[tuple[str, Mapping[str, np.ndarray]]],
    *,
    slices: int = 7,
    spacing_mm: Sequence[float] | None = None,
    label: str | None = None,
    most: int = 24,
) -> None:
    """Writes a PNG with a block per item, whole or not at all. The same input gives the same bytes.

    Args:
        path: The PNG.
        items: (caption, arrays per channel) per item, see `mosaic`.
        slices: Slices per volume.
        spacing_mm: See `mosaic`.
        label: See `mosaic`.
        most: Items drawn; a last line says how many there are where there are more.

    Raises:
        ValueError: There is no item, or one cannot be drawn.
        OSError: The file cannot be written.
    """
    from PIL import Image, ImageDraw

    if not items:
        raise ValueError("A preview needs at least one item.")
    blocks = [_block(volumes, slices, spacing_mm, caption, label) for caption, volumes in items[:most]]
    cell = max(block.width for block in blocks) + 2 * GAP_PX
    columns = max(1, min(len(blocks), PAGE_PX // cell))
    lines = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    heights = [max(block.height for block in line) + 2 * GAP_PX for line in lines]
    footer = LINE_PX if len(items) > most else 0
    page = Image.new("RGB", (cell * columns, sum(heights) + footer), BACKGROUND)
    y = 0
    for line, height in zip(lines, heights, strict=True):
        for column, block in enumerate(line):
            page.paste(block, (cell * column + GAP_PX, y + GAP_PX))
        y += height
    if footer:
        text = f"The first {most} of {len(items)} items are shown."
        ImageDraw.Draw(page).text((GAP_PX, y + 2), text, fill=TEXT_COLOUR, font=_font())
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())

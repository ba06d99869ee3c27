"""Previews: one PNG in which a person sees what a run made.

Volumes are shown as radiologists read them: axial slices from superior to inferior, anterior up, the patient's right on the
viewer's left. Enlarging is for display only; no stored voxel passes through here.
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
CAPTION_LINES = 4
CENTRAL_PART = 0.7
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

    if not np.isfinite(image).all():
        raise ValueError("An image with NaN or infinite values cannot be shown.")
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


def _tiles(array: np.ndarray, slices: int, spacing_mm: Sequence[float] | None) -> list["Image.Image"]:
    """The images of one row: slices of a volume, or the one tile."""
    spacing = tuple(spacing_mm) if spacing_mm is not None else (1.0,) * 3
    is_tile = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    if is_tile:
        return [_enlarge(array, (spacing[0], spacing[1]))]
    if array.ndim != 3:
        raise ValueError(f"An array of shape {array.shape} is neither a volume [x, y, z] nor a tile [y, x(, 3)].")
    return [_enlarge(axial_view(array, k), (spacing[1], spacing[0])) for k in pick_slices(array.shape[2], slices)]


def _block(
    volumes: Mapping[str, np.ndarray], slices: int, spacing_mm: Sequence[float] | None, caption: str, label: str | None
) -> "Image.Image":
    """Draws one item: caption, then one row per channel."""
    from PIL import Image, ImageDraw

    if not volumes:
        raise ValueError("A preview needs at least one channel.")
    font = _font()
    rows = [_tiles(np.asarray(array), slices, spacing_mm) for array in volumes.values()]
    width = MARGIN_PX + max(sum(tile.width + GAP_PX for tile in row) for row in rows)
    heights = [max(tile.height for tile in row) + GAP_PX for row in rows]
    lines = _wrap(caption, width)
    top = LINE_PX * (len(lines) + (1 if label else 0)) + GAP_PX
    page = Image.new("RGB", (width, top + sum(heights)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    if label:
        draw.text((GAP_PX, 2), label, fill=LABEL_COLOUR, font=font)
    for number, line in enumerate(lines):
        draw.text((GAP_PX, 2 + LINE_PX * (number + (1 if label else 0))), line, fill=TEXT_COLOUR, font=font)
    y = top
    for name, row, height in zip(volumes, rows, heights, strict=True):
        draw.text((GAP_PX, y + height // 2), name, fill=TEXT_COLOUR, font=font, anchor="lm")
        x = MARGIN_PX
        for tile in row:
            page.paste(tile, (x, y))
            x += tile.width + GAP_PX
        if len(row) > 1:
            middle = y + row[0].height // 2
            draw.text((MARGIN_PX + 3, middle), "R", fill=LABEL_COLOUR, font=font, anchor="lm")
            draw.text((MARGIN_PX + row[0].width - 3, middle), "L", fill=LABEL_COLOUR, font=font, anchor="rm")
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

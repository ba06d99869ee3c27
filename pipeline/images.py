"""Images on disk: what a model made, in the units and on the grid that its card declares."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..imaging.files import read_volume, write_volume
from ..imaging.intensity import parse_intensity
from ..imaging.previews import write_mosaic
from ..imaging.volume import Volume, reference_affine
from ..zoo.card import Card
from ..zoo.errors import CardError
from ..zoo.record import Record, group_items
from .run_folder import RunFolder

PREVIEW_ITEMS = 8
# Voxels that a preview may hold in memory at once.
PREVIEW_VOXELS = 64_000_000


class Writer(Protocol):
    """Stores one channel, whole or not at all."""

    def __call__(self, path: Path, *, array: np.ndarray, affine: np.ndarray, description: str) -> None: ...


def _write_volume(path: Path, *, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    write_volume(path, Volume(array, affine), description=description)


# How an image with these axes is stored: ending and writer.
FORMATS: Mapping[str, tuple[str, Writer]] = {"xyz": (".nii.gz", _write_volume)}


def _format(card: Card) -> tuple[str, Writer]:
    if card.image.axes not in FORMATS:
        raise CardError(
            f"Model {card.id} has images with axes {card.image.axes!r}, which cannot be written.",
            f"Use a model whose axes are one of: {', '.join(FORMATS)}.",
        )
    return FORMATS[card.image.axes]


def image_names(card: Card, item_id: str) -> list[str]:
    """File names of an item's images, in the card's order of channels; CardError for axes that cannot be written."""
    ending, _ = _format(card)
    return [f"{item_id}_{channel.name}{ending}" for channel in card.image.channels]


def grid_affine(card: Card, spacing_mm: Sequence[float]) -> np.ndarray:
    """4x4 affine (voxel to RAS mm) of the card's grid with a spacing, its middle at 0 mm."""
    _format(card)
    return reference_affine(card.image.shape, spacing_mm)


def write_images(
    run: RunFolder,
    card: Card,
    item_id: str,
    x: np.ndarray,
    *,
    affine: np.ndarray,
    data: Mapping[str, Any],
    bounds: Sequence[Mapping[str, float]] | None = None,
    listed: bool = True,
) -> list[Record]:
    """Writes an item's images with their sidecars, one per channel, in the units of the card.

    Args:
        run: The run.
        card: The model.
        item_id: The item.
        x: Image in 0..1, float32 C and then the card's axes.
        affine: 4x4, voxel to RAS mm.
        data: What all the item's sidecars say.
        bounds: Values that 0 and 1 stand for, per channel, where the item stems from a measured image.
        listed: Also list them in the manifest; otherwise `run.keep` has to.

    Returns:
        One record per channel.
    """
    _, write = _format(card)
    channels = card.image.channels
    description = _origin(data)
    records = []
    for c, (channel, name) in enumerate(zip(channels, image_names(card, item_id), strict=True)):
        mapping = parse_intensity(channel.intensity)
        bound = dict(bounds[c]) if bounds is not None else {"lower": mapping.output[0], "upper": mapping.output[1]}
        array = mapping.invert(x[c], bound)
        record = Record(
            item_id,
            "volume",
            run.artefact_path(item_id, name),
            {
                "channel": channel.name,
                "channels": [each.name for each in channels],
                "unit": channel.unit,
                "intensity": bound,
                "shape": list(array.shape),
                **data,
            },
        )
        store = partial(write, array=array, affine=affine, description=description)
        records.append(run.write_artefact(record, store) if listed else run.store_artefact(record, store))
    return records


def _origin(data: Mapping[str, Any]) -> str:
    """What an image is: made by a model or simulation, or a real exam that went through an autoencoder."""
    return "synthetic" if data["synthetic"] else "reconstruction"


class Preview:
    """A mosaic of the first items of a run, drawn from the files, so that a resumed run shows the same."""

    def __init__(self, run: RunFolder, card: Card) -> None:
        self._run = run
        voxels = len(card.image.channels) * int(np.prod(card.image.shape))
        self._most = max(1, min(PREVIEW_ITEMS, PREVIEW_VOXELS // voxels))
        self._items: dict[str, list[Record]] = {}

    def add(self, record: Record) -> None:
        """Notes a record that was written or found done."""
        if record.id in self._items or len(self._items) < self._most:
            self._items.setdefault(record.id, []).append(record)

    def write(self) -> None:
        """Draws the mosaic; nothing where there is no item."""
        if not self._items:
            return
        records = [record for group in self._items.values() for record in group]
        items = [_draw(group) for group in group_items(records)]
        label = " and ".join(sorted({_origin(record.data) for record in records}, reverse=True))
        spacing = records[0].data["spacing_mm"]
        target = self._run.named("preview.png")
        self._run.write_file(target, lambda path: write_mosaic(path, items, spacing_mm=spacing, label=label))


def _draw(records: Sequence[Record]) -> tuple[str, dict[str, np.ndarray]]:
    """Caption and arrays in 0..1 of one item."""
    arrays = {}
    for record in records:
        lower, upper = record.data["intensity"]["lower"], record.data["intensity"]["upper"]
        data = read_volume(record.path).data.astype(np.float32)
        arrays[str(record.data["channel"])] = np.clip((data - lower) / (upper - lower), 0.0, 1.0)
    prompt = records[0].data.get("prompt") or ""
    return f"{records[0].id}: {prompt}" if prompt else records[0].id, arrays

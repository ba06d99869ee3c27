"""Maps of what matters in an exam, such as its lesions, on the latent's grid: where the loss weighs more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..imaging.errors import InputError
from ..imaging.files import read_volume
from ..imaging.spec import ImageSpec
from ..imaging.volume import Volume, crop_or_pad, reorient, resample_spacing

ENDINGS = ("_lesions.nii.gz", ".nii.gz", ".mha")


class RegionMaps:
    """Masks of exams, each read when asked for and kept: they are small.

    Args:
        folder: Holds `<id>_lesions.nii.gz`, `<id>.nii.gz` or `<id>.mha` for each exam, on the grid of the exam's first
            channel; what is not 0 counts.
        ids: Of the exams that must have one.
        image: The model's image, 3-D.
        downsample: Voxels per latent voxel along each axis.
        mirror: Letter of the axis across which the mask's mirror image counts as well; empty for none. Where a loss
            weighs a lesion's own place alone, a lesion drawn on the wrong side too costs next to nothing.

    Raises:
        InputError: The folder lacks an exam's mask, the image is not 3-D, or it has no such axis.
    """

    def __init__(self, folder: Path, ids: Sequence[str], image: ImageSpec, downsample: int, mirror: str = "") -> None:
        if mirror and (len(mirror) != 1 or mirror not in image.axes):
            raise InputError(f"Option region_mirror is {mirror!r}.", f"Give one of the axes {', '.join(image.axes)}.")
        if image.axes != "xyz":
            raise InputError(
                f"Option regions is for volumes, not for images with axes {image.axes!r}.", "Leave it out."
            )
        self._paths = {name: _find(folder, name) for name in ids}
        missing = [name for name, path in self._paths.items() if path is None]
        if missing:
            raise InputError(
                f"{folder} has no mask of {missing[0]!r} ({len(missing)} of {len(ids)} exams lack one).",
                f"Give each exam a file {missing[0]}{ENDINGS[0]}; an empty mask means that nothing weighs more.",
            )
        self._image, self._downsample = image, downsample
        self._flipped = 1 + image.axes.index(mirror) if mirror else None
        self._held: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """How an exam's weight is spread: float32 [1, x, y, z], the share of each latent voxel that the mask covers.

        Masks of more than one latent voxel sum to 1, so that a large lesion does not count more than a small one; a
        mirror image counts as much again.
        """
        if name not in self._held:
            path = self._paths[name]
            assert path is not None
            self._held[name] = self._read(path)
        return self._held[name]

    def _read(self, path: Path) -> Tensor:
        image, volume = self._image, read_volume(path)
        volume = Volume((volume.data > 0).astype(np.float32), volume.affine)
        volume = reorient(volume, image.orientation or volume.orientation)
        if image.spacing_mm is not None:
            volume = resample_spacing(volume, image.spacing_mm)
        grid = torch.from_numpy(np.ascontiguousarray(crop_or_pad(volume, image.shape, fill=0.0).data, dtype=np.float32))
        covered = nn.functional.avg_pool3d(grid.clamp(0, 1)[None, None], self._downsample)[0]
        covered = covered / covered.sum().clamp(min=1.0)
        return covered if self._flipped is None else covered + covered.flip(self._flipped)


def _find(folder: Path, name: str) -> Path | None:
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    return None

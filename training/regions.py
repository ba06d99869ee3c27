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

    A loss that weighs the places of lesions alone is indulgent: a lesion drawn on the wrong side too, or in a healthy
    exam, costs next to nothing. So the places where a lesion could have been weigh as much: the mirror images of the
    mask, and in an exam whose mask is empty those of another one.

    Args:
        folder: Holds `<id>_lesions.nii.gz`, `<id>.nii.gz` or `<id>.mha` for each exam, on the grid of the exam's first
            channel; what is not 0 counts.
        ids: Of the exams that must have one.
        image: The model's image, 3-D.
        downsample: Voxels per latent voxel along each axis.
        mirror: Letters of the axes across which mirror images count as well, such as "x" or "xyz"; empty for none.

    Raises:
        InputError: The folder lacks an exam's mask, the image is not 3-D, or it has no such axis.
    """

    def __init__(self, folder: Path, ids: Sequence[str], image: ImageSpec, downsample: int, mirror: str = "") -> None:
        if set(mirror) - set(image.axes) or len(set(mirror)) < len(mirror):
            raise InputError(f"Option region_mirror is {mirror!r}.", f"Give some of the axes {image.axes!r}.")
        if image.axes != "xyz":
            raise InputError(f"Option regions is for volumes, not for axes {image.axes!r}.", "Leave it out.")
        self._paths = {name: _find(folder, name) for name in ids}
        missing = [name for name, path in self._paths.items() if path is None]
        if missing:
            raise InputError(
                f"{folder} has no mask of {missing[0]!r} ({len(missing)} of {len(ids)} exams lack one).",
                f"Give each exam a file {missing[0]}{ENDINGS[0]}, empty where there is nothing.",
            )
        self._ids = sorted(self._paths)
        self._image, self._downsample = image, downsample
        self._flips = [1 + image.axes.index(letter) for letter in mirror]
        self._held: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """How an exam's weight is spread: float32 [1, x, y, z], the share of each latent voxel that the mask covers.

        Masks of more than one latent voxel sum to 1, so that a large lesion does not count more than a small one; each
        mirror image counts as much again. All is 0 where no exam has anything in its mask.
        """
        # Always the same stand-in for the same exam, far from its neighbours in the list.
        first = self._ids.index(name)
        step = len(self._ids) // 2 or 1
        for place in range(len(self._ids)):
            covered = self._own(self._ids[(first + (place and step + place - 1)) % len(self._ids)])
            if bool(covered.any()):
                break
        for axis in self._flips:
            covered = covered + covered.flip(axis)
        return covered

    def _own(self, name: str) -> Tensor:
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
        return covered / covered.sum().clamp(min=1.0)


def _find(folder: Path, name: str) -> Path | None:
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    return None

"""MetaImage, NRRD and DICOM series through SimpleITK.

SimpleITK arrays are indexed `[z, y, x]` and its positions are LPS (left, posterior, superior); `to_volume` is the one
place that turns both into this package's `[x, y, z]` and RAS.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .claims import DEFLATE_LIMIT, check_axes, check_claim
from .errors import InputError
from .metaimage import check_metaimage
from .volume import Volume

if TYPE_CHECKING:
    import SimpleITK

STDERR = 2
# The distance of two slices may differ from the usual one by this fraction; where one is missing it is twice as long.
UNEVEN_LIMIT = 0.05


class _Silence:
    """Standard error led nowhere while some thread is inside: MetaIO writes there what no setting turns off.

    What else is written to standard error meanwhile is lost too. Standard output, where records go, stays.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            # A process may have no standard error.
            with suppress(OSError):
                if self._inside == 1:
                    self._saved = os.dup(STDERR)
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, STDERR)
                    os.close(nowhere)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                os.dup2(self._saved, STDERR)
                os.close(self._saved)
                self._saved = None


_SILENCE = _Silence()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ITK's warnings off standard error: what matters in them is checked here and raised."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with _SILENCE:
            yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def to_volume(image: "SimpleITK.Image", path: Path) -> Volume:
    """Turns a SimpleITK image into a volume: `[z, y, x]` into `[x, y, z]`, LPS into RAS.

    Args:
        image: 3-D scalar image, or 4-D with a single last index, which is dropped.
        path: For the message.

    Raises:
        InputError: The image is not 3-D or has several values per voxel.
    """
    import SimpleITK

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} values per voxel where one is due.",
            "Give a scalar image, one file per sequence.",
        )
    size = image.GetSize()
    check_axes(path, size)
    # Only the first three axes are space; a single last index carries nothing.
    data = SimpleITK.GetArrayFromImage(image).transpose()
    data = data.reshape(data.shape[:3])
    count = len(size)
    direction = np.array(image.GetDirection()).reshape(count, count)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    # LPS and RAS differ in the sign of the first two world axes.
    return Volume(data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def read_itk_file(path: Path) -> Volume:
    """Reads a MetaImage (.mha, .mhd) or NRRD file.

    Args:
        path: The file.

    Returns:
        The volume, with the stored type.

    Raises:
        InputError: The file is damaged, truncated, absurdly large by its header, or not a 3-D scalar image.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    metaimage = path.suffix.lower() in (".mha", ".mhd")
    if metaimage:
        check_metaimage(path)
    with _quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read: {_reason(error)}.", "Check that the file is whole.") from error
        size = reader.GetSize()
        check_axes(path, size)
        if not metaimage:
            check_claim(path, size, 1, path.stat().st_size * DEFLATE_LIMIT)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise InputError(
                f"{path}: its voxels cannot be read: {_reason(error)}.", "Copy or download the file again."
            ) from error
    return to_volume(image, path)


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ").rstrip(".") if lines else "unknown reason"


def read_dicom_series(folder: Path) -> Volume:
    """Reads the one DICOM series in a folder, slices sorted by position, rescale slope applied.

    Args:
        folder: Folder that directly holds the slices.

    Returns:
        The volume, with the stored type (floating point where there is a rescale slope).

    Raises:
        InputError: The folder holds no series or several, a slice is missing or doubled, or a file is damaged.
    """
    import SimpleITK

    with _quiet():
        series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise InputError(
                f"{folder} holds no DICOM series.", "Give the folder that directly holds the slices of one series."
            )
        if len(series) > 1:
            raise InputError(
                f"{folder} holds {len(series)} DICOM series, and which one is meant is not clear.",
                "Put each series into a folder of its own.",
            )
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        try:
            _check_slices(folder, names)
            reader = SimpleITK.ImageSeriesReader()
            reader.SetFileNames(names)
            image = reader.Execute()
        except RuntimeError as error:
            raise InputError(
                f"{folder}: its DICOM series cannot be read: {_reason(error)}.", "Copy or download the series again."
            ) from error
    return to_volume(image, folder)


def _check_slices(folder: Path, names: Sequence[str]) -> None:
    """Reads the slices' headers and refuses uneven positions, which ITK reads as if they were even."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    origins = []
    for name in names:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin())
    check_claim(folder, (*reader.GetSize()[:2], len(names)), 1, None)
    normal = np.array(reader.GetDirection()).reshape(3, 3)[:, 2]
    gaps = np.abs(np.diff(np.array(origins) @ normal))
    if len(gaps) == 0:
        return
    usual = float(np.median(gaps))
    worst = float(gaps[np.argmax(np.abs(gaps - usual))])
    if abs(worst - usual) > UNEVEN_LIMIT * usual:
        raise InputError(
            f"{folder}: its {len(names)} slices are unevenly spaced: {usual:.3g} mm, but {worst:.3g} mm in one place.",
            "A slice is missing or there twice: export the series again.",
        )

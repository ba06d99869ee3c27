"""Reads and writes volume files.

What is written is NIfTI-1, which every tool reads (ITK 5, and so 3D Slicer, reads no NIfTI-2), with sform and qform
set to one affine. Its fields are float32. That is exact for the grids that models generate (0.5, 1.5, 3 mm, centred
on 0); for others, such as an oblique scan or a spacing of 0.6 mm, it rounds by some micrometres. Such a file
therefore also carries the float64 affine in a header extension of the kind `comment`, which other tools pass over and
`read_volume` takes as long as it rounds to the sform that stands beside it. So an affine that is read back here
equals the one written, bit for bit. The qform is a quaternion: it cannot hold shear, and in float32 it loses up to
0.001 rad near a half turn (an LPS scan tilted by a fraction of a degree). Where it would be off by more than a
micrometre it is left out, so that a file never says two things.
"""

import gzip
import itertools
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .atomic import write_bytes
from .claims import DEFLATE_LIMIT, check_claim
from .errors import InputError
from .itk import read_dicom_series, read_itk_file
from .volume import Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd")
VOLUME_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)
# NIfTI's code for positions in the scanner's frame.
SCANNER_CODE = 1
# Key of the JSON text in the header extension: the affine's first three rows.
AFFINE_KEY = "affine_ras_mm_float64"
# The qform is left out where it would put a corner of the grid further off than this.
QFORM_LIMIT_MM = 1e-3
# Outside of this a header is damaged, or speaks of another unit.
SPACING_LIMITS_MM = (1e-3, 1e3)
# Sizes in a NIfTI-1 header are 16-bit.
MAX_AXIS = 2**15 - 1
# Fast, and within some percent of the best for noisy float data.
GZIP_LEVEL = 4


def volume_ending(path: Path | str) -> str | None:
    """Returns the volume ending of a file name (`.nii.gz`, `.mha`, ...), or None where it has none."""
    name = Path(path).name.lower()
    return next((ending for ending in VOLUME_ENDINGS if name.endswith(ending)), None)


def read_volume(path: Path | str) -> Volume:
    """Reads a volume.

    Args:
        path: A `.nii`, `.nii.gz`, `.mha`, `.mhd` or `.nrrd` file, or a folder with the slices of one DICOM series.

    Returns:
        The volume in its stored orientation and type (float32 where the file scales its values). A fourth axis of one
        is dropped.

    Raises:
        InputError: The path does not exist or is of another kind, or the file is damaged, truncated, absurdly large by
            its header, without an orientation, or not a 3-D scalar image.
    """
    path = Path(path)
    if path.is_dir():
        return read_dicom_series(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Check the path.")
    ending = volume_ending(path)
    if ending in NIFTI_ENDINGS:
        return _read_nifti(path)
    if ending in ITK_ENDINGS:
        return read_itk_file(path)
    raise InputError(
        f"{path} is not of a known volume type.",
        f"Use {', '.join(VOLUME_ENDINGS)}, or the folder of one DICOM series.",
    )


def read_description(path: Path | str) -> str:
    """The description in a NIfTI file's header; empty for other kinds. Raises `InputError` for an unreadable header."""
    if volume_ending(path) not in NIFTI_ENDINGS:
        return ""
    return bytes(_load_nifti(Path(path)).header["descrip"].item()).decode("latin-1").strip()


def _load_nifti(path: Path) -> "Nifti1Image":
    """Reads a NIfTI header."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.nifti1 import Nifti1Image
    from nibabel.spatialimages import HeaderDataError

    try:
        # What it would log, such as an unknown type, is an error here or mended by it.
        with LoggingOutputSuppressor():
            image = nib.load(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, OverflowError, zlib.error, ValueError) as error:
        raise InputError(
            f"{path} is not a readable NIfTI file: {str(error) or type(error).__name__}.",
            "Copy or download the file again.",
        ) from error
    if not isinstance(image, Nifti1Image):
        raise InputError(f"{path} is not a NIfTI file but {type(image).__name__}.", "Convert it to NIfTI first.")
    return image


def _read_nifti(path: Path) -> Volume:
    """Reads a NIfTI-1 or NIfTI-2 file, checking what its header claims first."""
    image = _load_nifti(path)
    shape = tuple(int(size) for size in image.shape)
    if len(shape) != 3 and not (len(shape) > 3 and all(size == 1 for size in shape[3:])):
        raise InputError(
            f"{path} is {len(shape)}-D ({' x '.join(str(s) for s in shape)}) where 3-D is due.",
            "Give one 3-D image per sequence; split a series into its volumes first.",
        )
    header = image.header
    on_disk = path.stat().st_size
    packed = path.name.lower().endswith(".gz")
    present = (on_disk * DEFLATE_LIMIT if packed else on_disk) - int(getattr(image.dataobj, "offset", 0))
    check_claim(path, shape, header.get_data_dtype().itemsize, present)
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise InputError(
            f"{path} has neither sform nor qform, so left and right in it are unknown.",
            "Write the file again from its source with the scanner's positions.",
        )
    try:
        data = np.asanyarray(image.dataobj)
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise InputError(
            f"{path}: the file is truncated or damaged: {str(error) or type(error).__name__}.",
            "Copy or download the file again.",
        ) from error
    if data.dtype.kind not in "biuf":
        raise InputError(f"{path} holds colours or complex numbers, not one number a voxel.", "Save it as float32.")
    if data.dtype != header.get_data_dtype():
        # nibabel computes slope and intercept in float64; the values themselves have far fewer bits.
        data = data.astype(np.float32)
    return Volume(data.reshape(shape[:3]), _affine(image, path))


def _affine(image: "Nifti1Image", path: Path) -> np.ndarray:
    """The image's affine in float64, from the extension where there is one that fits, or a sentence if it has none."""
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine is not finite.", "Repair the orientation in the file's header.")
    for extension in image.header.extensions:
        try:
            exact = np.array(
                [*json.loads(extension.content.rstrip(b"\x00"))[AFFINE_KEY], [0, 0, 0, 1]], dtype=np.float64
            )
        except (ValueError, TypeError, KeyError):
            continue
        # A tool that moved the image changed the sform and knows nothing of the extension, which is then out of date.
        if exact.shape == (4, 4) and np.array_equal(exact.astype(np.float32), affine.astype(np.float32)):
            return exact
    return affine


def _stored(data: np.ndarray, dtype: np.dtype, path: Path) -> np.ndarray:
    """Converts to the stored type; integers are rounded, and what does not fit is refused."""
    if not np.isfinite(data).all():
        raise ValueError(f"{path}: a volume with NaN or infinite values is not written.")
    if dtype.kind in "iu" and data.dtype != dtype:
        data = np.rint(data)
        limits = np.iinfo(dtype)
        if data.min() < limits.min or data.max() > limits.max:
            raise ValueError(f"{path}: values {data.min():g}..{data.max():g} do not fit into {dtype}.")
    return np.ascontiguousarray(data).astype(dtype, copy=False)


def write_volume(
    path: Path | str, volume: Volume, *, dtype: npt.DTypeLike = np.float32, description: str = "synthetic"
) -> None:
    """Writes a volume as NIfTI, whole or not at all. The same volume gives the same bytes.

    Args:
        path: Ends in `.nii` or `.nii.gz`.
        volume: What to write, in its own orientation.
        dtype: Stored type; no scale factor is used. Integer types round.
        description: The header's description, at most 79 bytes; say `synthetic` for what a model made.

    Raises:
        InputError: The path has another ending.
        ValueError: Values are not finite or do not fit, or the type or description is not one that NIfTI can hold.
        OSError: The file cannot be written.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Image

    path = Path(path)
    if volume_ending(path) not in NIFTI_ENDINGS:
        raise InputError(f"{path} is not a NIfTI file name.", "Let the name end in .nii.gz or .nii.")
    if len(description.encode()) > 79:
        raise ValueError(f"The description {description!r} is longer than the 79 bytes that NIfTI has room for.")
    if max(volume.shape) > MAX_AXIS:
        raise ValueError(f"{path}: an axis of {max(volume.shape)} voxels is longer than the {MAX_AXIS} of NIfTI.")
    data = _stored(volume.data, np.dtype(dtype), path)
    image = Nifti1Image(data, volume.affine, dtype=data.dtype)
    header = image.header
    header["descrip"] = description.encode()
    header.set_xyzt_units("mm")
    image.set_sform(volume.affine, SCANNER_CODE)
    image.set_qform(volume.affine, SCANNER_CODE)
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0.0, size - 1.0) for size in volume.shape))])
    if np.abs(corners @ (image.get_qform() - volume.affine).T).max() > QFORM_LIMIT_MM:
        image.set_qform(None, 0)
    if not np.array_equal(volume.affine.astype(np.float32).astype(np.float64), volume.affine):
        text = json.dumps({AFFINE_KEY: volume.affine[:3].tolist()})
        header.extensions.append(Nifti1Extension("comment", text.encode()))
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        # No time and no name in the gzip header, or the same volume would not give the same bytes.
        content = gzip.compress(content, GZIP_LEVEL, mtime=0)
    write_bytes(path, content)


def check_volume(volume: Volume, name: str) -> None:
    """Refuses a volume that cannot be an image of anything.

    Args:
        volume: What was read.
        name: For the message: the channel, or the path.

    Raises:
        InputError: The volume is a single slice, has impossible voxels, holds NaN or infinity, or is constant.
    """
    if min(volume.shape) < 2:
        raise InputError(
            f"{name} is a single slice ({' x '.join(str(s) for s in volume.shape)}) where a volume is due.",
            "Give a 3-D image with several slices.",
        )
    spacing = volume.spacing_mm
    if min(spacing) < SPACING_LIMITS_MM[0] or max(spacing) > SPACING_LIMITS_MM[1]:
        raise InputError(
            f"{name} has voxels of {' x '.join(f'{step:.3g}' for step in spacing)} mm.",
            f"Voxels are {SPACING_LIMITS_MM[0]:g} to {SPACING_LIMITS_MM[1]:g} mm large: repair the file's header.",
        )
    if volume.data.dtype.kind == "f":
        bad = int(volume.data.size - np.isfinite(volume.data).sum())
        if bad:
            raise InputError(
                f"{name} holds {bad} voxels that are NaN or infinite.", "Replace them, or write the file again."
            )
    low, high = volume.data.min(), volume.data.max()
    if low == high:
        raise InputError(f"{name} is constant: every voxel is {low:g}.", "Check that the right file was exported.")

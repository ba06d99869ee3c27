"""MetaImage, NRRD and DICOM series through SimpleITK.

SimpleITK arrays are indexed `[z, y, x]` and its positions are LPS (left, posterior, superior); `to_volume` is the one
place that turns both into this package's `[x, y, z]` and RAS.
"""

import math
import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .volume import Volume

if TYPE_CHECKING:
    import SimpleITK

MAX_VOXELS = 2**31
STDERR = 2
# DEFLATE cannot shrink data by more than this factor, so that a file's size bounds what its header may claim.
DEFLATE_LIMIT = 1032
# The distance of two slices may differ from the usual one by this fraction; where one is missing it is twice as long.
UNEVEN_LIMIT = 0.05
# Compressed voxels are checked in pieces of this size; zlib finds out itself whether they are its own format or gzip.
PIECE_BYTES = 2**22
ZLIB_OR_GZIP = 47
# The library loses its place in a MetaImage's header after a field of more letters.
LONGEST_FIELD = 2000
ELEMENT_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_DOUBLE": 8,
}  # fmt: skip


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
    _check_axes(path, size)
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


def _check_axes(path: Path, size: Sequence[int]) -> None:
    """Refuses what is not 3-D; a fourth axis of one is let through."""
    if len(size) == 3 or (len(size) == 4 and size[3] == 1):
        return
    raise InputError(
        f"{path} is {len(size)}-D ({' x '.join(str(s) for s in size)}) where 3-D is due.",
        "Give one 3-D image per sequence; split a series into its volumes first.",
    )


def _metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """Reads the text header of a MetaImage: its fields, and the number of bytes it takes."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for _ in range(1000):
            line = file.readline(65536)
            if not line:
                break
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                _check_fields(path, fields)
                return fields, file.tell()
    raise InputError(f"{path} cannot be read: no MetaImage header ends in ElementDataFile there.", "Write it again.")


def _check_fields(path: Path, fields: Mapping[str, str]) -> None:
    """Refuses header fields that the library would complain of on standard error."""
    longest = max(fields, key=lambda name: len(fields[name]))
    if len(fields[longest]) > LONGEST_FIELD:
        raise InputError(f"{path}: {longest[:80]} in its header has {len(fields[longest])} letters.", "Write it again.")
    axes = fields.get("NDims", "")
    numbers = {"NDims": 1, "DimSize": int(axes) if re.fullmatch("[1-9]", axes) else 1}
    for name, count in numbers.items():
        if not re.fullmatch(r"\d{1,18}(\s+\d{1,18})*", fields.get(name, "")) or len(fields[name].split()) != count:
            raise InputError(
                f"{path}: its header has {name} = {fields.get(name, '')[:80]!r}; {count} whole numbers are due.",
                "Write the file again.",
            )
    if fields.get("ElementType") not in ELEMENT_BYTES:
        raise InputError(
            f"{path}: its header has ElementType = {fields.get('ElementType', '')[:80]!r}, no type of scalars.",
            f"Write the file again with one of {', '.join(ELEMENT_BYTES)}.",
        )
    for name in ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"):
        if fields.get(name, "True").lower() not in ("true", "false"):
            raise InputError(f"{path}: its header has {name} = {fields[name][:80]!r}.", "Write True or False there.")
    if fields.get("BinaryData", "True").lower() == "false":
        raise InputError(f"{path} holds its voxels as text.", "Write the file again with BinaryData = True.")
    size = fields.get("CompressedDataSize", "0")
    if not re.fullmatch(r"\d{1,18}", size):
        raise InputError(f"{path}: its header has CompressedDataSize = {size[:80]!r}.", "Write the file again.")


def _check_metaimage(path: Path) -> None:
    """Compares a MetaImage's header with the bytes that are there: the library reads short data with noise only."""
    fields, header_bytes = _metaimage_header(path)
    shape = [int(size) for size in fields["DimSize"].split()]
    _check_axes(path, shape)
    source = fields["ElementDataFile"]
    data_path = path
    if source.upper() == "LOCAL":
        present = path.stat().st_size - header_bytes
    else:
        if source.upper().startswith("LIST") or "%" in source:
            return
        data_path = path.parent / source
        # A name of more than 255 bytes is none; asking for it is an error of its own.
        if len(source) > 255 or not data_path.is_file():
            raise InputError(
                f"{path}: its data file {source[:80]!r} does not exist beside it.", "Copy both files into one folder."
            )
        present = data_path.stat().st_size
    if fields.get("CompressedData", "False").lower() == "true":
        stored = int(fields.get("CompressedDataSize", "0"))
        if stored > present:
            raise InputError(
                f"{path}: the file is truncated: {present} of {stored} compressed bytes are there.",
                "Copy or download the file again.",
            )
        present *= DEFLATE_LIMIT
    check_claim(path, shape, ELEMENT_BYTES[fields["ElementType"]], present)
    if fields.get("CompressedData", "False").lower() == "true":
        if fields.get("HeaderSize", "0") != "0":
            raise InputError(
                f"{path}: its voxels are compressed and lie behind a header of {fields['HeaderSize'][:80]!r} bytes.",
                "Write the file again without HeaderSize.",
            )
        start = header_bytes if data_path == path else 0
        _check_stream(path, data_path, start, math.prod(shape) * ELEMENT_BYTES[fields["ElementType"]])


def _check_stream(path: Path, data_path: Path, start: int, claimed_bytes: int) -> None:
    """Refuses compressed voxels that do not unpack to what the header claims: the library reads such as whatever."""
    unpacker, count = zlib.decompressobj(wbits=ZLIB_OR_GZIP), 0
    try:
        with data_path.open("rb") as file:
            file.seek(start)
            while not unpacker.eof and count <= claimed_bytes and (packed := file.read(PIECE_BYTES)):
                while packed and not unpacker.eof and count <= claimed_bytes:
                    count += len(unpacker.decompress(packed, PIECE_BYTES))
                    packed = unpacker.unconsumed_tail
            count += len(unpacker.flush()) if count <= claimed_bytes else 0
    except zlib.error as error:
        raise InputError(
            f"{path}: its compressed voxels are damaged: {error}.", "Copy or download the file again."
        ) from error
    if not unpacker.eof or count != claimed_bytes:
        raise InputError(
            f"{path}: its compressed voxels are damaged: {count} bytes came out of them where {claimed_bytes} are due.",
            "Copy or download the file again.",
        )


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
        _check_metaimage(path)
    with _quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read: {_reason(error)}.", "Check that the file is whole.") from error
        size = reader.GetSize()
        _check_axes(path, size)
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

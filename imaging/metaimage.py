"""MetaImage headers (.mha, .mhd), checked before the library sees them: it reads damaged ones as whatever they seem."""

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from .claims import DEFLATE_LIMIT, check_axes, check_claim
from .errors import InputError

# Compressed voxels are checked in pieces of this size; zlib finds out itself whether they are its own format or gzip.
PIECE_BYTES = 2**22
ZLIB_OR_GZIP = 47
# The library loses its place in a MetaImage's header after a field of more letters.
LONGEST_FIELD = 2000
ELEMENT_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_DOUBLE": 8,
}  # fmt: skip


def check_metaimage(path: Path) -> None:
    """Compares a MetaImage's header with the bytes that are there: the library reads short data with noise only.

    Args:
        path: The .mha or .mhd file.

    Raises:
        InputError: A field of the header is none that the library reads, the image is not 3-D, the data file is gone,
            or its bytes are fewer than claimed or do not unpack.
    """
    fields, header_bytes = _metaimage_header(path)
    shape = [int(size) for size in fields["DimSize"].split()]
    check_axes(path, shape)
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

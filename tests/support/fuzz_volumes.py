"""Strategies for volume files: headers that claim anything, and files that are cut or damaged."""

import gzip
import json
import struct
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from support.fuzzing import Case


def _nifti() -> bytes:
    """A whole NIfTI-1 file of 18 x 18 x 8 voxels."""
    import nibabel as nib

    rng = np.random.default_rng(1)
    data = rng.uniform(100, 2000, (18, 18, 8)).astype(np.float32)
    return nib.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0])).to_bytes()


NIFTI = _nifti()
NUMBERS = st.one_of(st.sampled_from([0, 1, 2, -1, 32767, -32768, 10_000]), st.integers(-32768, 32767))
FLOATS = st.one_of(st.sampled_from([0.0, 1e-30, 1e30, -1.0, float("nan"), float("inf"), 1e6, 0.5]), st.floats(width=32))
# Offset and kind of the fields of a NIfTI-1 header that decide how the rest is read.
FIELDS = [
    (0, "i"), *[(40 + 2 * n, "h") for n in range(8)], (70, "h"), (72, "h"), *[(76 + 4 * n, "f") for n in range(8)],
    (108, "f"), (112, "f"), (116, "f"), (252, "h"), (254, "h"), *[(256 + 4 * n, "f") for n in range(6)],
    *[(280 + 4 * n, "f") for n in range(12)], (344, "i"), (348, "i"), (352, "i"), (356, "i"),
]  # fmt: skip
MHA = ("ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
       "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 2 2 4\nDimSize = 18 18 8\n"
       "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n")  # fmt: skip


@st.composite
def volumes(draw: Callable) -> Case:
    """NIfTI and MetaImage headers that claim anything, and files that are cut or damaged."""
    if draw(st.integers(0, 2)):
        data = bytearray(NIFTI)
        for offset, kind in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=4)):
            value = draw(FLOATS if kind == "f" else NUMBERS)
            struct.pack_into("<" + kind, data, offset, value)
        content, name = bytes(data), "v.nii"
    else:
        lines = MHA.splitlines()
        for place in draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=3)):
            key, _, value = lines[place].partition(" = ")
            numbers = st.lists(st.one_of(NUMBERS, FLOATS, st.just(10**12)), max_size=12)
            texts = (
                "",
                "True",
                "LIST",
                "v.raw",
                "../x.raw",
                "/etc/hostname",
                "MET_CHAR",
                "MET_NONE",
                "A" * 5000,
                value,
            )
            change = draw(st.one_of(numbers.map(lambda values: " ".join(map(str, values))), st.sampled_from(texts)))
            lines[place] = f"{key} = {change}"
        content, name = "\n".join([*lines, ""]).encode() + NIFTI[352:], "v.mha"
    if draw(st.integers(0, 4)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if name == "v.nii" and draw(st.booleans()):
        content, name = gzip.compress(content, 1), "v.nii.gz"
        if draw(st.integers(0, 4)) == 0:
            content = content[: draw(st.integers(0, len(content)))]
    others = draw(st.sampled_from([("w.nii", "w.nii"), (name, name)]))
    row = {"id": "e", **dict(zip(draw(st.permutations(("t2w", "hbv", "adc"))), (name, *others), strict=True))}
    return Case(
        ("encode", "m.jsonl", "--model", "./model", "-o", "out", "-q"),
        {name: content, "w.nii": NIFTI, "m.jsonl": json.dumps(row).encode()},
    )

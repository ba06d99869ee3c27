"""MetaImage, NRRD and DICOM series, against nibabel and against each other; headers that claim too much."""

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation
from support.dicom_series import write_dicom

from ccella.imaging.errors import InputError
from ccella.imaging.files import read_volume

SHARED = Path(os.environ.get("CCELLA_SHARED", Path(__file__).parents[2] / "shared"))
PROSTATEX = SHARED / "data" / "prostatex"
needs_prostatex = pytest.mark.skipif(
    not PROSTATEX.is_dir(), reason=f"the two real exams are not at {PROSTATEX} (set CCELLA_SHARED)"
)


def oblique() -> np.ndarray:
    """An RAS affine of a tilted scan with an uneven spacing."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (18.488, 0.0683, -0.0228), degrees=True).as_matrix()
    affine[:3, :3] = turn * np.array([0.5, 0.6, 2.9999999941936877])
    affine[:3, 3] = (-57.25, 82.375, -27.125)
    return affine


def itk_image(kind=np.int16) -> SimpleITK.Image:
    """An oblique ITK image of distinct values."""
    lps = np.diag([-1, -1, 1, 1]) @ oblique()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.arange(5 * 6 * 7, dtype=kind).reshape(7, 6, 5))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
def test_itk_formats_agree_with_nibabel_on_the_same_image(tmp_path, ending, packed):
    image = itk_image()
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"), useCompression=packed)
    SimpleITK.WriteImage(image, str(tmp_path / "y.nii.gz"))
    ours, theirs = read_volume(tmp_path / f"x{ending}"), nib.load(tmp_path / "y.nii.gz")
    assert ours.data.dtype == np.int16 and ours.shape == (5, 6, 7)
    np.testing.assert_array_equal(ours.data, np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.affine, oblique(), rtol=0, atol=1e-6)


def test_a_dicom_series_is_sorted_by_position(tmp_path):
    write_dicom(tmp_path / "s", [0, 3, 6, 9])
    volume = read_volume(tmp_path / "s")
    assert volume.shape == (3, 4, 4)
    assert volume.orientation == "LPS"
    assert volume.spacing_mm == pytest.approx((2, 2, 3))
    assert volume.affine[:3, 3].tolist() == [10, -20, 0]
    assert volume.data[1, 1].tolist() == [7, 107, 207, 307]
    assert volume.data[0, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("heights", [[0, 3, 9, 12], [0, 3, 3, 6]], ids=["missing", "doubled"])
def test_a_dicom_series_with_a_hole_is_refused(tmp_path, heights, capfd):
    write_dicom(tmp_path / "s", heights)
    with pytest.raises(InputError, match="unevenly spaced"):
        read_volume(tmp_path / "s")
    assert capfd.readouterr().err == ""


def test_a_folder_needs_one_dicom_series(tmp_path, capfd):
    with pytest.raises(InputError, match="holds no DICOM series"):
        read_volume(tmp_path)
    write_dicom(tmp_path, [0, 3])
    write_dicom(tmp_path, [0, 3], series="1.2.826.0.1.3680043.2.1125.2")
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        read_volume(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_last_axis_of_one_is_dropped(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    nib.Nifti1Image(data, np.diag([1, 2, 3, 1.0])).to_filename(tmp_path / "x.nii.gz")
    image = SimpleITK.GetImageFromArray(data.transpose(3, 2, 1, 0), isVector=False)
    image.SetSpacing((1, 2, 3, 4))
    SimpleITK.WriteImage(image, str(tmp_path / "x.mha"))
    one, other = read_volume(tmp_path / "x.nii.gz"), read_volume(tmp_path / "x.mha")
    np.testing.assert_array_equal(one.data, data[..., 0])
    np.testing.assert_array_equal(other.data, data[..., 0])
    assert other.spacing_mm == (1, 2, 3)


def huge_nifti(path: Path) -> None:
    """A valid header for 10000 x 10000 x 10000 float32, and a little data."""
    header = nib.Nifti1Header()
    header.set_data_shape((10000, 10000, 10000))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    data = header.binaryblock + struct.pack("4B", 0, 0, 0, 0) + bytes(400)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


METAIMAGE = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = {sizes}\n"
    "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
)
NRRD = "NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\n\n"


@pytest.mark.parametrize("name", ["huge.nii", "huge.nii.gz", "huge.mha", "huge.nrrd"])
def test_a_header_that_claims_a_trillion_voxels_is_refused_before_allocation(tmp_path, name, capfd):
    path = tmp_path / name
    if ".nii" in name:
        huge_nifti(path)
    else:
        text = (METAIMAGE if name.endswith("mha") else NRRD).format(sizes="10000 10000 10000")
        path.write_bytes(text.encode() + bytes(400))
    with pytest.raises(InputError, match=r"10000 x 10000 x 10000 = 1e\+12 voxels"):
        read_volume(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["large.mha", "large.nrrd"])
def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_allocation(tmp_path, name):
    text = (METAIMAGE if name.endswith("mha") else NRRD).format(sizes="1000 1000 1000")
    (tmp_path / name).write_bytes(text.encode() + bytes(400))
    with pytest.raises(InputError, match="truncated: its header claims"):
        read_volume(tmp_path / name)


@needs_prostatex
@pytest.mark.parametrize(("word", "channel"), [("t2tse", "t2w"), ("ADC", "adc"), ("CALCBVAL", "hbv")])
def test_real_dicom_series_agree_with_their_mha(word, channel, capfd):
    (folder,) = (PROSTATEX / "dicom" / "ProstateX-0001").glob(f"*{word}*")
    dicom, mha = read_volume(folder), read_volume(PROSTATEX / "ProstateX-0001" / f"ProstateX-0001_{channel}.mha")
    np.testing.assert_array_equal(dicom.data, mha.data)
    np.testing.assert_allclose(dicom.affine, mha.affine, rtol=0, atol=1e-6)
    assert capfd.readouterr().err == ""

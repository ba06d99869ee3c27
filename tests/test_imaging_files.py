"""Volume files: exact round trips, agreement with nibabel and SimpleITK, and sentences for damaged files."""

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ccella.imaging.errors import InputError
from ccella.imaging.files import check_volume, read_volume, volume_ending, write_volume
from ccella.imaging.volume import Volume, reference_affine, reorient

SHARED = Path(os.environ.get("CCELLA_SHARED", Path(__file__).parents[2] / "shared"))
PROSTATEX = SHARED / "data" / "prostatex"
needs_prostatex = pytest.mark.skipif(
    not PROSTATEX.is_dir(), reason=f"the two real exams are not at {PROSTATEX} (set CCELLA_SHARED)"
)
SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def noise(shape=(5, 6, 7), affine=None, seed=0) -> Volume:
    data = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    return Volume(data, reference_affine(shape, (1.5, 1.5, 3.0)) if affine is None else affine)


def frame(linear, spacing=(0.5, 0.5, 3.0), origin=(-57.25, 82.375, -27.125)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear * np.array(spacing), origin
    return affine


def oblique() -> np.ndarray:
    return frame(
        Rotation.from_euler("xyz", (18.488, 0.0683, -0.0228), degrees=True).as_matrix(), (0.5, 0.6, 2.9999999941936877)
    )


def test_round_trip_is_exact_in_all_48_orientations(tmp_path):
    assert len(SIGNED_PERMUTATIONS) == 48
    for number, linear in enumerate(SIGNED_PERMUTATIONS):
        volume = noise(affine=frame(linear), seed=number)
        path = tmp_path / f"{number}{('.nii', '.nii.gz')[number % 2]}"
        write_volume(path, volume)
        back = read_volume(path)
        assert back.data.dtype == np.float32
        np.testing.assert_array_equal(back.data, volume.data)
        np.testing.assert_array_equal(back.affine, volume.affine)
        assert back.orientation == volume.orientation
        image = nib.load(path)
        assert not image.header.extensions, "a grid without rounding needs no extension"
        np.testing.assert_array_equal(image.get_sform(coded=True)[0], volume.affine)
        np.testing.assert_allclose(image.get_qform(coded=True)[0], volume.affine, rtol=0, atol=1e-6)
        assert (image.get_sform(coded=True)[1], image.get_qform(coded=True)[1]) == (1, 1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6.0)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    mirrored=st.booleans(),
)
def test_round_trip_is_exact_for_oblique_grids(tmp_path, angles, spacing, origin, mirrored):
    linear = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([-1 if mirrored else 1, 1, 1])
    volume = noise(affine=frame(linear, spacing, origin))
    path = tmp_path / "x.nii.gz"
    write_volume(path, volume)
    back = read_volume(path)
    np.testing.assert_array_equal(back.affine, volume.affine)
    np.testing.assert_array_equal(back.data, volume.data)
    image = nib.load(path)
    assert image.header["sizeof_hdr"] == 348
    assert image.header["sform_code"] == 1
    np.testing.assert_array_equal(image.get_sform().astype(np.float32), volume.affine.astype(np.float32))
    if image.header["qform_code"]:
        np.testing.assert_allclose(image.get_qform(), volume.affine, rtol=0, atol=1e-3)


def test_an_affine_that_another_tool_changed_wins_over_the_extension(tmp_path):
    write_volume(tmp_path / "x.nii.gz", noise(affine=oblique()))
    image = nib.load(tmp_path / "x.nii.gz")
    assert len(image.header.extensions) == 1
    moved = image.affine.copy()
    moved[0, 3] += 1.0
    nib.Nifti1Image(np.asanyarray(image.dataobj), moved, image.header).to_filename(tmp_path / "y.nii.gz")
    assert len(nib.load(tmp_path / "y.nii.gz").header.extensions) == 1
    assert read_volume(tmp_path / "y.nii.gz").affine[0, 3] == pytest.approx(oblique()[0, 3] + 1.0, abs=1e-5)


def test_a_sheared_affine_gets_the_sform_only(tmp_path):
    affine = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    write_volume(tmp_path / "x.nii.gz", noise(affine=affine))
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii.gz").affine, affine)
    assert nib.load(tmp_path / "x.nii.gz").header["qform_code"] == 0


def test_a_qform_that_float32_cannot_hold_is_left_out(tmp_path):
    tilt = Rotation.from_euler("xyz", (0, 0, 179.9375), degrees=True).as_matrix()
    write_volume(tmp_path / "x.nii.gz", noise((20, 20, 20), frame(tilt)))
    write_volume(tmp_path / "y.nii.gz", noise(affine=oblique()))
    assert nib.load(tmp_path / "x.nii.gz").header["qform_code"] == 0
    assert nib.load(tmp_path / "y.nii.gz").header["qform_code"] == 1


@pytest.mark.parametrize(
    "affine",
    [
        reference_affine((5, 6, 7), (1.5, 1.5, 3.0)),
        oblique(),
        frame(Rotation.from_euler("xyz", (0, 0, 179.9375), degrees=True).as_matrix()),
    ],
    ids=["plain", "oblique", "half turn"],
)
def test_itk_reads_what_is_written(tmp_path, affine):
    volume = noise(affine=affine)
    write_volume(tmp_path / "x.nii.gz", volume)
    image = SimpleITK.ReadImage(str(tmp_path / "x.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), volume.data)
    for index in ((0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((-x, -y, z), affine[:3, :3] @ index + affine[:3, 3], rtol=0, atol=1e-4)


def test_header_says_synthetic_mm_and_no_scale(tmp_path):
    write_volume(tmp_path / "x.nii.gz", noise())
    header = nib.load(tmp_path / "x.nii.gz").header
    assert bytes(header["descrip"]).rstrip(b"\x00") == b"synthetic"
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_slope_inter() in ((1.0, 0.0), (None, None))
    write_volume(tmp_path / "y.nii.gz", noise(), description="phantom")
    assert bytes(nib.load(tmp_path / "y.nii.gz").header["descrip"]).rstrip(b"\x00") == b"phantom"


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("one.nii.gz", "another_name.nii.gz"):
        write_volume(tmp_path / name, noise())
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "another_name.nii.gz").read_bytes()
    assert names(tmp_path) == ["another_name.nii.gz", "one.nii.gz"]


def test_integers_are_rounded_and_kept_in_range(tmp_path):
    volume = Volume(np.array([[[0.4, 1.6], [2999.5, 3.0]]] * 2), np.eye(4))
    write_volume(tmp_path / "x.nii.gz", volume, dtype=np.int16)
    back = read_volume(tmp_path / "x.nii.gz")
    assert back.data.dtype == np.int16
    assert back.data[0].tolist() == [[0, 2], [3000, 3]]
    with pytest.raises(ValueError, match="do not fit into uint8"):
        write_volume(tmp_path / "y.nii.gz", volume, dtype=np.uint8)
    assert not (tmp_path / "y.nii.gz").exists()


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        write_volume(tmp_path / "x.nii.gz", Volume(np.full((2, 2, 2), np.nan), np.eye(4)))
    with pytest.raises(InputError, match=r"x\.mha is not a NIfTI"):
        write_volume(tmp_path / "x.mha", noise())
    with pytest.raises(ValueError, match="79 bytes"):
        write_volume(tmp_path / "x.nii.gz", noise(), description="x" * 80)
    assert names(tmp_path) == []


def test_a_nifti_with_a_scale_reads_as_float32(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii")
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, nib.load(tmp_path / "x.nii").get_fdata(dtype=np.float32))


def cut(path: Path, keep: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def make_bad(folder: Path, name: str) -> Path:
    """Makes one damaged or unsuitable file."""
    big = noise((20, 20, 10))
    path = folder / name
    if name in ("cut.nii", "cut.nii.gz"):
        write_volume(path, big)
        return cut(path)
    if name in ("cut_raw.mha", "cut_packed.mha", "cut_raw.nrrd", "cut_packed.nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(big.data), str(path), useCompression="packed" in name)
        return cut(path)
    if name == "alone.mhd":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(big.data), str(path))
        (folder / "alone.raw").unlink()
    elif name in ("flat.nii", "flat.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(big.data[:, :, 0]), str(path))
    elif name == "series.nii.gz":
        nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)).to_filename(path)
    elif name == "series.mha":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 4, 4), np.float32), isVector=False), str(path))
    elif name == "colour.mha":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True), str(path))
    elif name in ("junk.nii", "junk.nii.gz", "junk.mha", "junk.nrrd", "notes.txt"):
        path.write_bytes(b"this is no image at all\n" * 40)
    elif name in ("empty.nii", "empty.nii.gz", "empty.mha"):
        path.write_bytes(b"")
    elif name == "nowhere.nii":
        nib.Nifti1Image(big.data, None).to_filename(path)
    elif name == "absent.nii.gz":
        return path
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.nii.gz", "does not exist"),
        ("cut.nii", "truncated"),
        ("cut.nii.gz", "truncated"),
        ("cut_raw.mha", "truncated"),
        ("cut_packed.mha", "truncated"),
        ("cut_raw.nrrd", "cannot be read"),
        ("cut_packed.nrrd", "cannot be read"),
        ("alone.mhd", r"'alone\.raw' does not exist"),
        ("flat.nii", "2-D"),
        ("flat.mha", "2-D"),
        ("series.nii.gz", "4-D"),
        ("series.mha", "4-D"),
        ("colour.mha", "3 values per voxel"),
        ("junk.nii", "not a readable NIfTI"),
        ("junk.nii.gz", "not a readable NIfTI"),
        ("junk.mha", "cannot be read"),
        ("junk.nrrd", "cannot be read"),
        ("empty.nii", "not a readable NIfTI"),
        ("empty.nii.gz", "not a readable NIfTI"),
        ("empty.mha", "cannot be read"),
        ("nowhere.nii", "neither sform nor qform"),
        ("notes.txt", "not of a known volume type"),
    ],
)
def test_a_bad_file_gets_a_sentence_and_nothing_on_standard_error(tmp_path, capfd, name, words):
    path = make_bad(tmp_path, name)
    capfd.readouterr()
    with pytest.raises(InputError, match=words) as error:
        read_volume(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and error.value.remedy
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.where(np.arange(64) == 9, np.nan, 1.0).reshape(4, 4, 4), "1 voxels that are NaN"),
        (np.where(np.arange(64) < 2, np.inf, 1.0).reshape(4, 4, 4), "2 voxels that are NaN or infinite"),
        (np.full((4, 4, 4), 7), "constant: every voxel is 7"),
        (np.arange(16).reshape(4, 4, 1), "single slice"),
    ],
)
def test_check_volume_refuses_what_is_no_image(data, words):
    with pytest.raises(InputError, match=f"t2w of x.*{words}"):
        check_volume(Volume(data, np.eye(4)), "t2w of x")


def test_check_volume_lets_an_image_through():
    check_volume(noise(), "t2w")
    check_volume(Volume(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4)), "labels")


def test_volume_ending():
    assert volume_ending("a/b.NII.GZ") == ".nii.gz"
    assert volume_ending("b.nii") == ".nii"
    assert volume_ending("b.gz") is None and volume_ending("nii") is None


@needs_prostatex
@pytest.mark.parametrize("case", ["ProstateX-0000", "ProstateX-0001"])
def test_real_exams_read_and_come_back_exactly(tmp_path, case, capfd):
    shapes = {}
    for channel in ("t2w", "hbv", "adc"):
        volume = read_volume(PROSTATEX / case / f"{case}_{channel}.mha")
        check_volume(volume, channel)
        shapes[channel] = volume.shape
        write_volume(tmp_path / "x.nii.gz", volume, dtype=volume.data.dtype, description="copy")
        back = read_volume(tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(back.data, volume.data)
        np.testing.assert_array_equal(back.affine, volume.affine)
        assert reorient(volume).orientation == "RAS"
    assert shapes == {"t2w": (384, 384, 19), "hbv": (84, 128, 19), "adc": (84, 128, 19)}
    assert capfd.readouterr().err == ""

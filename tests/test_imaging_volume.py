"""Geometry of volumes, against nibabel, SimpleITK and functions of position whose values are known."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ccella.imaging.errors import InputError
from ccella.imaging.volume import (
    Volume,
    crop_or_pad,
    reference_affine,
    reorient,
    resample_spacing,
    resample_to,
)

ORIENTATIONS = [
    "".join(code) for axes in itertools.permutations(("LR", "PA", "IS")) for code in itertools.product(*axes)
]
ANGLES = st.tuples(*[st.floats(-25, 25)] * 3)


def oriented(code: str, shape=(5, 6, 7), spacing=(0.5, 0.8, 3.0), origin=(-11.25, 7.5, 40.0)) -> Volume:
    """A volume of distinct values whose axes grow to the named directions."""
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    linear = np.zeros((3, 3))
    for voxel, letter in enumerate(code):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        linear[world, voxel] = spacing[voxel] * (1 if letter in "RAS" else -1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    return Volume(data, affine)


def oblique(code: str, angles, **kwargs) -> Volume:
    """`oriented`, turned by three angles in degrees."""
    volume = oriented(code, **kwargs)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Volume(volume.data, turn @ volume.affine)


def positions(affine, shape) -> np.ndarray:
    """RAS mm of every voxel, [x, y, z, 3]."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def ramp(affine, shape) -> Volume:
    """A volume whose value is a linear function of the position in mm."""
    return Volume((positions(affine, shape) @ [0.7, -0.4, 0.25] + 3.0).astype(np.float32), affine)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_reorient_agrees_with_nibabel_in_every_orientation(code):
    volume = oriented(code)
    assert volume.orientation == code == "".join(nib.aff2axcodes(volume.affine))
    ours = reorient(volume, "RAS")
    theirs = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    assert ours.orientation == "RAS"
    np.testing.assert_array_equal(ours.data, theirs.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(code=st.sampled_from(ORIENTATIONS), target=st.sampled_from(ORIENTATIONS), angles=ANGLES)
def test_reorient_moves_no_value(code, target, angles):
    volume = oblique(code, angles)
    assert volume.orientation == "".join(nib.aff2axcodes(volume.affine))
    result = reorient(volume, target)
    assert result.orientation == target
    where = {
        float(v): p
        for v, p in zip(volume.data.ravel(), positions(volume.affine, volume.shape).reshape(-1, 3), strict=True)
    }
    found = positions(result.affine, result.shape).reshape(-1, 3)
    expected = np.array([where[float(v)] for v in result.data.ravel()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    back = reorient(result, code)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, rtol=0, atol=1e-9)


def test_properties_of_an_oblique_volume():
    volume = oblique("LPS", (18.5, 0, 0))
    assert volume.shape == (5, 6, 7)
    assert volume.spacing_mm == pytest.approx((0.5, 0.8, 3.0), abs=1e-12)
    assert volume.centre_mm == pytest.approx(positions(volume.affine, volume.shape).reshape(-1, 3).mean(0), abs=1e-9)


@pytest.mark.parametrize(
    ("data", "affine", "words"),
    [
        (np.zeros((4, 4)), np.eye(4), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4, 2)), np.eye(4), r"shape \(4, 4, 4, 2\)"),
        (np.zeros((0, 4, 4)), np.eye(4), "non-empty"),
        (np.zeros((2, 2, 2), complex), np.eye(4), "complex128"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 0, 1, 1]), "not invertible"),
        (np.zeros((2, 2, 2)), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "not invertible"),
        (np.zeros((2, 2, 2)), np.diag([1.0, np.nan, 1, 1]), "not a finite"),
        (np.zeros((2, 2, 2)), np.eye(3), "4x4"),
    ],
)
def test_volume_refuses_what_is_no_image_in_space(data, affine, words):
    with pytest.raises(InputError, match=words) as error:
        Volume(data, affine)
    assert error.value.remedy


def test_reorient_refuses_a_wrong_code():
    for code in ("RAX", "RLS", "RA", ""):
        with pytest.raises(InputError, match="does not name three directions"):
            reorient(oriented("RAS"), code)


def test_resample_on_the_same_grid_is_exact():
    rng = np.random.default_rng(0)
    volume = oblique("LPS", (18, 3, -7))
    noise = Volume(rng.normal(size=volume.shape).astype(np.float32), volume.affine)
    # What a float32 header makes of the same grid.
    reference = Volume(volume.data, volume.affine.astype(np.float32).astype(np.float64))
    for order in (0, 1, 3):
        np.testing.assert_array_equal(resample_to(noise, reference, order).data, noise.data)


def test_resample_by_whole_voxels_is_exact_and_fills_outside():
    volume = oriented("RAS")
    shifted = volume.affine.copy()
    shifted[:3, 3] += volume.affine[:3, :3] @ [1, 2, -3]
    result = resample_to(volume, Volume(volume.data, shifted), fill=-1.0)
    expected = np.full(volume.shape, -1.0)
    expected[:-1, :-2, 3:] = volume.data[1:, 2:, :-3]
    np.testing.assert_array_equal(result.data, expected)


@settings(max_examples=25, deadline=None)
@given(code=st.sampled_from(ORIENTATIONS), angles=ANGLES)
def test_linear_resampling_reproduces_a_linear_function_of_position(code, angles):
    coarse = ramp(
        oblique(code, angles, shape=(12, 13, 9), spacing=(2.0, 2.0, 3.0), origin=(0, 0, 0)).affine, (12, 13, 9)
    )
    fine_affine = np.eye(4)
    fine_affine[:3, :3] = np.diag([0.5, 0.5, 0.9])
    fine_affine[:3, 3] = np.array(coarse.centre_mm) - np.array([5, 5, 5]) * [0.5, 0.5, 0.9]
    reference = Volume(np.zeros((11, 11, 11)), fine_affine)
    result = resample_to(coarse, reference)
    np.testing.assert_allclose(result.data, ramp(fine_affine, (11, 11, 11)).data, rtol=0, atol=2e-4)
    np.testing.assert_array_equal(result.affine, fine_affine)


def to_itk(volume: Volume) -> SimpleITK.Image:
    """An independent way into ITK: LPS affine split into direction, spacing, origin."""
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.data.transpose(2, 1, 0)))
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_resampling_agrees_with_itk():
    rng = np.random.default_rng(1)
    frame = oblique("LPS", (18, -4, 6), shape=(14, 12, 10), spacing=(2.0, 2.0, 3.0))
    source = Volume(rng.normal(size=frame.shape).astype(np.float32), frame.affine)
    target = oblique("LPS", (3, 9, -2), shape=(30, 31, 12), spacing=(0.8, 0.7, 2.5))
    shift = np.eye(4)
    shift[:3, 3] = np.array(source.centre_mm) - np.array(target.centre_mm) + [2, -3, 1]
    target = Volume(target.data, shift @ target.affine)
    ours = resample_to(source, target, fill=-9.0).data
    itk = SimpleITK.Resample(to_itk(source), to_itk(target), SimpleITK.Transform(), SimpleITK.sitkLinear, -9.0)
    theirs = SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0)
    inside = theirs != -9.0
    assert 0.2 < inside.mean() < 0.95
    # A position right on the border may fall on either side of it.
    assert ((ours != -9.0) != inside).sum() <= 2
    inside &= ours != -9.0
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=1e-4)


def test_nearest_keeps_labels():
    labels = Volume(
        np.random.default_rng(2).integers(0, 11, (9, 8, 7), dtype=np.uint8), reference_affine((9, 8, 7), (2, 2, 3))
    )
    reference = Volume(np.zeros((18, 16, 7)), reference_affine((18, 16, 7), (1, 1, 3)))
    result = resample_to(labels, reference, order=0)
    assert result.data.dtype == np.uint8
    np.testing.assert_array_equal(result.data, labels.data.repeat(2, 0).repeat(2, 1))


def test_resample_keeps_the_outermost_voxels():
    volume = Volume(np.full((8, 8, 4), 7, np.int16), reference_affine((8, 8, 4), (2, 2, 3)))
    fine = Volume(np.zeros((32, 32, 12)), reference_affine((32, 32, 12), (0.5, 0.5, 1.0)))
    assert (resample_to(volume, fine, fill=0).data == 7).all()


def test_resample_refuses_volumes_apart():
    near, far = oriented("RAS"), oriented("RAS", origin=(900, 0, 0))
    with pytest.raises(InputError, match=r"do not overlap in space.*901\.0") as error:
        resample_to(near, far)
    assert "one exam" in error.value.remedy


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1.0), (1.5, 1.5, 3.0), (0.7, 2.0, 2.0)])
def test_resample_spacing_keeps_centre_field_and_mean(spacing):
    volume = Volume(
        np.random.default_rng(3).normal(5, 1, (40, 36, 20)), oblique("LPS", (18, 0, 2), origin=(3, 4, 5)).affine
    )
    volume = Volume(volume.data, volume.affine @ np.diag([2.0, 1.25, 1 / 1.5, 1]))
    assert volume.spacing_mm == pytest.approx((1.0, 1.0, 2.0))
    result = resample_spacing(volume, spacing)
    assert result.spacing_mm == pytest.approx(spacing, rel=1e-12)
    assert result.centre_mm == pytest.approx(volume.centre_mm, abs=1e-9)
    for size, step, old, old_step in zip(result.shape, spacing, volume.shape, (1.0, 1.0, 2.0), strict=True):
        assert abs(size * step - old * old_step) <= step / 2 + 1e-9
    assert result.data.mean() == pytest.approx(5.0, abs=0.05)
    assert result.data.dtype == np.float32


def test_resample_spacing_does_not_alias():
    checker = (np.indices((48, 48, 8)).sum(0) % 2).astype(np.float32)
    volume = Volume(checker, reference_affine(checker.shape, (0.5, 0.5, 3)))
    coarse = resample_spacing(volume, (1.5, 1.5, 3.0)).data
    # Without smoothing every third sample of a checkerboard is a checkerboard again: 0 and 1.
    assert np.abs(coarse[2:-2, 2:-2] - 0.5).max() < 0.15


def test_resample_spacing_without_change_returns_the_data():
    volume = Volume(np.arange(24).reshape(2, 3, 4), reference_affine((2, 3, 4), (0.5, 0.5, 2.9999999941936877)))
    assert resample_spacing(volume, (0.5, 0.5, 3.0)) is volume


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    target=st.tuples(*[st.integers(1, 12)] * 3),
    code=st.sampled_from(ORIENTATIONS),
)
def test_crop_or_pad_leaves_voxels_where_they_are(shape, target, code):
    volume = oblique(code, (18, 3, -7), shape=shape)
    volume = Volume(volume.data + 1, volume.affine)
    result = crop_or_pad(volume, target, fill=0)
    assert result.shape == target
    where = {
        float(v): p for v, p in zip(volume.data.ravel(), positions(volume.affine, shape).reshape(-1, 3), strict=True)
    }
    kept = result.data > 0
    assert kept.sum() == np.prod(np.minimum(shape, target))
    expected = np.array([where[float(v)] for v in result.data[kept]])
    np.testing.assert_allclose(positions(result.affine, target)[kept], expected, rtol=0, atol=1e-9)
    moved = np.linalg.solve(volume.affine[:3, :3], np.array(result.centre_mm) - np.array(volume.centre_mm))
    assert np.abs(moved).max() <= 0.5 + 1e-9
    if all(t >= s for s, t in zip(shape, target, strict=True)):
        back = crop_or_pad(result, shape)
        np.testing.assert_array_equal(back.data, volume.data)
        np.testing.assert_allclose(back.affine, volume.affine, rtol=0, atol=1e-9)


def test_padding_takes_the_background():
    volume = Volume(np.arange(8, dtype=np.int16).reshape(2, 2, 2) - 1000, np.eye(4))
    result = crop_or_pad(volume, (4, 2, 2))
    assert result.data.dtype == np.int16
    assert (result.data[0] == -1000).all() and (result.data[3] == -1000).all()


def test_reference_affine_is_ras_and_centred():
    volume = Volume(np.zeros((64, 64, 32)), reference_affine((64, 64, 32), (1.5, 1.5, 3.0)))
    assert volume.orientation == "RAS"
    assert volume.centre_mm == (0.0, 0.0, 0.0)
    assert volume.affine[:3, 3].tolist() == [-47.25, -47.25, -46.5]

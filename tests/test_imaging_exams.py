"""Exams come out on the model's grid with every voxel where it was in the patient."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam, find_exams, load_exam
from ccella.imaging.files import read_volume, write_volume
from ccella.imaging.spec import Channel, ImageSpec
from ccella.imaging.volume import Volume, reference_affine, reorient, resample_to

SHARED = Path(os.environ.get("CCELLA_SHARED", Path(__file__).parents[2] / "shared"))
PROSTATEX = SHARED / "data" / "prostatex"
needs_prostatex = pytest.mark.skipif(
    not PROSTATEX.is_dir(), reason=f"the two real exams are not at {PROSTATEX} (set CCELLA_SHARED)"
)
CHANNELS = ("t2w", "hbv", "adc")
PERCENTILE = {"kind": "percentile", "lower": 0.0, "upper": 99.5, "output": [0, 1000]}
WINDOW = {"kind": "window", "lower": 0, "upper": 3000}
SPEC = ImageSpec(
    "xyz",
    (16, 16, 8),
    (1.5, 1.5, 3.0),
    "RAS",
    (
        Channel("t2w", "a.u.", PERCENTILE),
        Channel("hbv", "a.u.", PERCENTILE),
        Channel("adc", "1e-6 mm2/s", WINDOW),
    ),
)


def image(seed=0, shape=(16, 16, 8), spacing=(1.5, 1.5, 3.0), high=2500) -> Volume:
    data = np.random.default_rng(seed).integers(0, high, shape).astype(np.float32)
    return Volume(data, reference_affine(shape, spacing))


def with_artefact(volume: Volume) -> Volume:
    """The volume with one voxel far above the others."""
    data = volume.data.copy()
    data[0, 0, 0] = 5000
    return Volume(data, volume.affine)


def moved(volume: Volume, voxels: int) -> Volume:
    """The volume so many voxels further to the right."""
    affine = volume.affine.copy()
    affine[0, 3] += voxels * affine[0, 0]
    return Volume(volume.data, affine)


def exam(folder: Path, **volumes: Volume) -> Exam:
    defaults = {"t2w": image(1), "hbv": image(2), "adc": image(3)}
    files = {name: folder / f"{name}.nii.gz" for name in defaults}
    for name, path in files.items():
        write_volume(path, {**defaults, **volumes}[name])
    return Exam("case", "case", files)


def test_an_exam_on_the_models_grid_comes_through_unchanged(tmp_path):
    prepared = load_exam(exam(tmp_path), SPEC)
    assert prepared.array.shape == SPEC.array_shape and prepared.array.dtype == np.float32
    np.testing.assert_array_equal(prepared.affine, image().affine)
    np.testing.assert_allclose(prepared.array[2] * 3000, image(3).data, rtol=0, atol=1e-3)
    upper = np.percentile(image(1).data, 99.5)
    lower = image(1).data.min()
    expected = np.clip((image(1).data - lower) / (upper - lower), 0, 1)
    np.testing.assert_allclose(prepared.array[0], expected, rtol=0, atol=1e-6)
    assert prepared.intensity_params[0] == {"lower": lower, "upper": pytest.approx(upper)}
    assert prepared.source_shape == (16, 16, 8)


def test_left_stays_left_whatever_the_stored_order(tmp_path):
    lps = {name: reorient(image(seed), "LPS") for name, seed in (("t2w", 1), ("hbv", 2), ("adc", 3))}
    turned = load_exam(exam(tmp_path / "lps", **lps), SPEC)
    plain = load_exam(exam(tmp_path / "ras"), SPEC)
    np.testing.assert_array_equal(turned.array, plain.array)
    np.testing.assert_allclose(turned.affine, plain.affine, rtol=0, atol=1e-9)
    assert turned.source_affine[0, 0] < 0


def test_a_coarse_channel_lands_where_it_lies_in_space(tmp_path):
    data = np.zeros((10, 10, 8), np.float32)
    data[7, 2, 5] = 2000  # right, posterior
    coarse = Volume(data, reference_affine((10, 10, 8), (3.0, 3.0, 3.0)))
    prepared = load_exam(exam(tmp_path, adc=coarse), SPEC)
    peak = np.unravel_index(prepared.array[2].argmax(), SPEC.shape)
    found = prepared.affine[:3, :3] @ peak + prepared.affine[:3, 3]
    np.testing.assert_allclose(found, coarse.affine[:3, :3] @ [7, 2, 5] + coarse.affine[:3, 3], rtol=0, atol=1.0)


def test_another_grid_is_resampled_and_padded_around_the_middle(tmp_path):
    fine = {name: image(seed, (24, 20, 6), (0.75, 0.75, 3.0)) for name, seed in (("t2w", 1), ("hbv", 2), ("adc", 3))}
    prepared = load_exam(exam(tmp_path, **fine), SPEC)
    inside = prepared.array[0, 2:14, 3:13, 1:7]
    assert (inside > 0).all()
    assert prepared.array.sum() == pytest.approx(prepared.array[:, 2:14, 3:13, 1:7].sum())
    np.testing.assert_allclose(prepared.affine, reference_affine((16, 16, 8), (1.5, 1.5, 3.0)), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "volume", "words"),
    [
        ("adc", image(3, high=9), "due in 1e-6 mm2/s, but 95 % .* do not exceed 8: it looks like 1e-3"),
        ("adc", Volume(image(3).data / 1e6, image().affine), "it looks like mm2/s"),
        ("adc", with_artefact(Volume(image(3).data / 1e3, image().affine)), "it looks like 1e-3 mm2/s"),
        ("adc", Volume(-image(3).data, image().affine), "has no value above 0"),
        ("hbv", moved(image(2), 15), "covers 6% of the other along its axis x"),
        ("hbv", Volume(np.full((16, 16, 8), 5.0), image().affine), "constant: every voxel is 5"),
        ("hbv", Volume(np.arange(2048).reshape(16, 16, 8) == 9, image().affine), "'hbv': .*no contrast"),
        ("adc", moved(image(), 500), "do not overlap"),
        ("t2w", image(1, (16, 16, 1)), "single slice"),
    ],
)
def test_an_exam_that_cannot_be_used_names_exam_and_channel(tmp_path, name, volume, words):
    with pytest.raises(InputError, match=words) as error:
        load_exam(exam(tmp_path, **{name: volume}), SPEC)
    assert "'case'" in str(error.value) and name in str(error.value) and error.value.remedy


def test_a_grid_of_tiles_is_refused(tmp_path):
    tiles = ImageSpec("yx", (16, 16), None, None, (Channel("t2w", "", PERCENTILE),))
    with pytest.raises(InputError, match="'yx'"):
        load_exam(exam(tmp_path), tiles)


@needs_prostatex
def test_real_exams_go_onto_a_models_grid(capfd):
    exams = find_exams(PROSTATEX, CHANNELS)
    assert [e.id for e in exams] == ["ProstateX-0000", "ProstateX-0001"]
    spec = ImageSpec("xyz", (64, 64, 19), (1.5, 1.5, 3.0), "RAS", SPEC.channels)
    for one in exams:
        prepared = load_exam(one, spec)
        assert prepared.array.shape == (3, 64, 64, 19)
        assert prepared.array.min() >= 0 and prepared.array.max() <= 1
        # The middle of the field is tissue in all three: prostate or bladder.
        assert (prepared.array[:, 24:40, 24:40, 9].mean((1, 2)) > 0.05).all()
        assert prepared.source_shape == (384, 384, 19)
        t2w = read_volume(one.files["t2w"])
        np.testing.assert_allclose(
            Volume(prepared.array[0], prepared.affine).centre_mm, t2w.centre_mm, rtol=0, atol=0.8
        )
    assert capfd.readouterr().err == ""


@needs_prostatex
def test_real_adc_on_the_t2_grid_agrees_with_itk():
    folder = PROSTATEX / "ProstateX-0000"
    t2w, adc = (SimpleITK.ReadImage(str(folder / f"ProstateX-0000_{name}.mha")) for name in ("t2w", "adc"))
    theirs = SimpleITK.Resample(adc, t2w, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0, SimpleITK.sitkFloat32)
    ours = resample_to(read_volume(folder / "ProstateX-0000_adc.mha"), read_volume(folder / "ProstateX-0000_t2w.mha"))
    difference = np.abs(ours.data - SimpleITK.GetArrayFromImage(theirs).transpose(2, 1, 0))
    assert ours.data.max() > 2500
    # A position right on the border may fall on either side of it.
    assert np.quantile(difference, 0.999) < 0.05

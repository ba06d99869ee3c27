"""Exams as a classifier sees them."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam, find_exams
from ccella.imaging.files import write_volume
from ccella.imaging.spec import Channel, ImageSpec
from ccella.imaging.standardisation import foreground_box, parse_standard_score, soft_clip, standardise_exam
from ccella.imaging.volume import Volume, reference_affine, reorient

SHARED = Path(os.environ.get("CCELLA_SHARED", Path(__file__).parents[2] / "shared"))
SCORE = {"kind": "standard_score", "lower": 2.0, "upper": 98.0, "sharpness": 20.0}
SHAPE, SPACING = (20, 18, 10), (1.5, 1.5, 3.0)
SPEC = ImageSpec(
    "xyz", (16, 16, 8), SPACING, "RAS",
    (Channel("t2w", "a.u.", SCORE), Channel("hbv", "a.u.", SCORE), Channel("adc", "1e-6 mm2/s", SCORE)),
)  # fmt: skip


def body(seed: int, low: float = 0.0) -> np.ndarray:
    """A bright box of texture in even air."""
    data = np.full(SHAPE, low, np.float32)
    data[3:15, 2:14, 1:9] = low + 100 + 900 * np.random.default_rng(seed).random((12, 12, 8))
    return data


def write_exam(folder: Path, arrays: dict[str, np.ndarray], orientation: str = "RAS") -> Exam:
    files = {}
    for name, data in arrays.items():
        files[name] = folder / f"e_{name}.nii.gz"
        write_volume(files[name], reorient(Volume(data, reference_affine(SHAPE, SPACING)), orientation))
    return Exam("e", "e", files)


def arrays() -> dict[str, np.ndarray]:
    return {"t2w": body(1), "hbv": body(2), "adc": body(3)}


def test_each_channel_has_mean_0_and_deviation_1_over_the_body(tmp_path: Path) -> None:
    x = standardise_exam(write_exam(tmp_path, arrays()), SPEC)
    assert x.shape == (3, 16, 16, 8) and x.dtype == np.float32
    # The body fills 12 x 12 x 8 voxels in the middle; what was added around it is each channel's lowest value.
    inside = x[:, 2:14, 2:14]
    np.testing.assert_allclose(inside.mean((1, 2, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(inside.std((1, 2, 3)), 1.0, atol=1e-5)
    np.testing.assert_array_equal(x[:, 0, 0, 0], inside.min((1, 2, 3)))


def test_units_and_offsets_of_the_file_change_nothing(tmp_path: Path) -> None:
    """A z-scored volume has no zeros for background: a rule such as `> 0` would cut through the body."""
    plain = standardise_exam(write_exam(tmp_path, arrays()), SPEC)
    scored = {name: ((data - data.mean()) / data.std()).astype(np.float32) for name, data in arrays().items()}
    scored["adc"] = arrays()["adc"]
    np.testing.assert_allclose(standardise_exam(write_exam(tmp_path, scored), SPEC), plain, atol=1e-4)


def test_the_orientation_of_the_file_changes_nothing(tmp_path: Path) -> None:
    plain = standardise_exam(write_exam(tmp_path, arrays()), SPEC)
    np.testing.assert_allclose(standardise_exam(write_exam(tmp_path, arrays(), "LPS"), SPEC), plain, atol=1e-5)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-3, -7.0), (40.0, 1000.0)])
def test_the_box_of_the_body(scale: float, offset: float) -> None:
    assert foreground_box(body(1) * scale + offset) == (slice(3, 15), slice(2, 14), slice(1, 9))


def test_a_box_of_nothing_is_everything() -> None:
    assert foreground_box(np.zeros((3, 4, 5))) == (slice(None), slice(None), slice(None))


def test_soft_clipping_against_its_definition() -> None:
    unit = np.linspace(-2, 3, 501)
    softplus = lambda v: np.log1p(np.exp(20 * v)) / 20  # noqa: E731
    np.testing.assert_allclose(soft_clip(unit, 20.0), unit + softplus(-unit) - softplus(unit - 1), atol=1e-12)
    clipped = soft_clip(unit, 20.0)
    assert (np.diff(clipped) > -1e-12).all() and clipped.min() > -1e-12 and clipped.max() < 1 + 1e-12
    np.testing.assert_allclose(soft_clip(unit, 1e4), np.clip(unit, 0, 1), atol=1e-3)


def test_a_channel_without_contrast_is_named(tmp_path: Path) -> None:
    exam = write_exam(tmp_path, {**arrays(), "hbv": np.full(SHAPE, 5.0, np.float32)})
    with pytest.raises(InputError, match=r"\bhbv\b"):
        standardise_exam(exam, SPEC)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = body(1)
    broken[5, 5, 5] = np.nan
    exam = write_exam(tmp_path, arrays())
    nibabel.save(nibabel.Nifti1Image(broken, reference_affine(SHAPE, SPACING)), exam.files["t2w"])
    with pytest.raises(InputError, match="t2w"):
        standardise_exam(exam, SPEC)


@pytest.mark.parametrize(
    "change", [{"kind": "window"}, {"lower": 99.0}, {"upper": "98"}, {"sharpness": 0.0}, {"median": 1.0}]
)
def test_intensity_tables_that_are_none(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        parse_standard_score({**SCORE, **change})


@pytest.mark.skipif(not (SHARED / "data/prostatex").is_dir(), reason="the two real exams are not there")
def test_real_exams_fill_the_published_grid() -> None:
    image = ImageSpec("xyz", (256, 256, 32), (0.5, 0.5, 3.0), "RAS", SPEC.channels)
    exams = find_exams(SHARED / "data" / "prostatex", image.channel_names)
    x = standardise_exam(exams[0], image)
    assert x.shape == (3, 256, 256, 32) and np.isfinite(x).all()
    assert (np.abs(x.mean((1, 2, 3))) < 0.5).all()

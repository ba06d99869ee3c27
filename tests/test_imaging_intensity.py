"""Intensity maps and the image spec that carries them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccella.imaging.errors import InputError
from ccella.imaging.intensity import parse_intensity
from ccella.imaging.spec import Channel, ImageSpec

PERCENTILE = {"kind": "percentile", "lower": 0.0, "upper": 99.5, "output": [0, 1000]}
WINDOW = {"kind": "window", "lower": 0, "upper": 3000}


def test_window_maps_adc_by_fixed_bounds():
    unit, params = parse_intensity(WINDOW).apply(np.array([-5, 0, 750, 3000, 4095], np.int16))
    assert unit.dtype == np.float32
    assert unit.tolist() == [0, 0, 0.25, 1, 1]
    assert params == {"lower": 0.0, "upper": 3000.0}


def test_percentile_takes_the_bounds_from_the_image():
    array = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    unit, params = parse_intensity(PERCENTILE).apply(array)
    assert params == {"lower": 0.0, "upper": pytest.approx(995.0)}
    assert unit.max() == 1.0 and unit.min() == 0.0
    assert (unit == 1.0).sum() == 6


def test_percentile_bounds_do_not_depend_on_the_stored_type():
    array = np.random.default_rng(0).integers(0, 1200, (9, 9, 9))
    maps = [
        parse_intensity(PERCENTILE).apply(array.astype(kind)) for kind in (np.int16, np.uint16, np.float32, np.float64)
    ]
    assert all(params == maps[0][1] for _, params in maps)
    assert all(np.array_equal(unit, maps[0][0]) for unit, _ in maps)


@given(
    values=st.lists(st.integers(0, 4000), min_size=3, max_size=50).filter(lambda v: len(set(v)) > 2),
    config=st.sampled_from([WINDOW, {**PERCENTILE, "upper": 100}]),
)
def test_invert_undoes_apply_within_the_bounds(values, config):
    array = np.array(values, np.float32)
    mapping = parse_intensity(config)
    unit, params = mapping.apply(array)
    back = mapping.invert(unit, params)
    np.testing.assert_allclose(back, np.clip(array, params["lower"], params["upper"]), rtol=0, atol=1e-3)


def test_invert_without_bounds_uses_the_declared_output():
    half = np.array([0.0, 0.5, 1.0])
    assert parse_intensity({**PERCENTILE, "output": [100, 500]}).invert(half, None).tolist() == [100, 300, 500]
    assert parse_intensity(WINDOW).invert(half, None).tolist() == [0, 1500, 3000]


def test_invert_clips_what_no_stored_value_maps_to():
    assert parse_intensity(WINDOW).invert(np.array([-0.2, 1.3])).tolist() == [0, 3000]


def test_an_image_without_contrast_is_refused():
    array = np.zeros((10, 10, 10))
    array[0, 0, 0] = 5
    with pytest.raises(InputError, match="no contrast"):
        parse_intensity(PERCENTILE).apply(array)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "kind None"),
        ({"kind": "minmax"}, "'minmax'"),
        ({**WINDOW, "upper": 0}, "do not increase"),
        ({**WINDOW, "upper": "3000"}, "'3000'"),
        ({**WINDOW, "upper": float("nan")}, "nan"),
        ({**WINDOW, "upper": True}, "True"),
        ({**WINDOW, "output": [0, 1]}, "'output' is unknown"),
        ({**PERCENTILE, "upper": 101}, "0..100"),
        ({**PERCENTILE, "output": [0]}, "pair"),
        ({**PERCENTILE, "output": [10, 0]}, "do not increase"),
        ({"kind": "percentile", "lower": 0, "upper": 99.5}, "'output' is None"),
    ],
)
def test_a_wrong_table_names_key_and_value(config, words):
    with pytest.raises(InputError, match=words) as error:
        parse_intensity(config)
    assert error.value.remedy


def test_image_spec_describes_volumes_and_tiles():
    volume = ImageSpec("xyz", (64, 64, 32), (1.5, 1.5, 3.0), "RAS", (Channel("t2w", "a.u.", PERCENTILE),))
    tile = ImageSpec("yx", (256, 256), None, None, tuple(Channel(c, "", WINDOW) for c in ("red", "green", "blue")))
    assert volume.array_shape == (1, 64, 64, 32)
    assert tile.array_shape == (3, 256, 256)
    assert tile.channel_names == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": "xx"}, "'xx'"),
        ({"shape": (64,)}, r"\(64,\)"),
        ({"shape": (0, 64)}, r"\(0, 64\)"),
        ({"spacing_mm": (1.0, -1.0)}, "-1.0"),
        ({"orientation": "RAS"}, "'RAS'"),
        ({"channels": ()}, "empty or repeated"),
        ({"channels": (Channel("a", "", WINDOW),) * 2}, "repeated"),
    ],
)
def test_image_spec_refuses_what_does_not_fit(change, words):
    good = {"axes": "yx", "shape": (64, 64), "spacing_mm": None, "orientation": None}
    with pytest.raises(InputError, match=words):
        ImageSpec(**{**good, "channels": (Channel("a", "", WINDOW),), **change})


def test_channel_names_are_file_names():
    with pytest.raises(InputError, match="a/b"):
        Channel("a/b", "", WINDOW)

"""Previews show the right side on the right side."""

import io

import numpy as np
import pytest
from PIL import Image

from ccella.imaging.previews import MARGIN_PX, TILE_PX, axial_view, mosaic, pick_slices, write_mosaic


def blob(x, y, z, shape=(16, 16, 8)):
    """A volume with one bright cube around a voxel."""
    array = np.zeros(shape, np.float32)
    array[max(x - 2, 0) : x + 2, max(y - 2, 0) : y + 2, max(z - 1, 0) : z + 1] = 1
    return array


def test_axial_view_is_radiological():
    array = np.zeros((4, 3, 2))
    array[3, 2, 1] = 1  # far right, far anterior
    view = axial_view(array, 1)
    assert view.shape == (3, 4)
    assert view[0, 0] == 1  # the viewer's upper left


def test_slices_run_through_the_central_part_from_superior_to_inferior():
    assert pick_slices(101, 3) == [85, 50, 15]
    assert pick_slices(2, 6) == [1, 0]
    assert pick_slices(1, 6) == [0]


def test_mosaic_puts_patient_right_and_anterior_at_the_upper_left_of_the_tile():
    volume = blob(13, 13, 4)
    image = mosaic({"t2w": volume}, slices=3).astype(float)
    first = image[4 : 4 + TILE_PX, MARGIN_PX : MARGIN_PX + TILE_PX].mean(-1)
    third = image[4 : 4 + TILE_PX, MARGIN_PX + 2 * (TILE_PX + 4) :].mean(-1)[:, :TILE_PX]
    bright = max((first, third), key=lambda tile: (tile > 200).sum())
    rows, columns = np.nonzero(bright > 240)
    assert rows.mean() < 0.4 * TILE_PX and columns.mean() < 0.4 * TILE_PX


def test_rows_are_channels_and_columns_slices():
    volume = np.random.default_rng(0).random((16, 16, 20), dtype=np.float32)
    image = mosaic({"t2w": volume, "hbv": volume, "adc": volume}, slices=5)
    assert image.shape == (4 + 3 * (TILE_PX + 4), MARGIN_PX + 5 * (TILE_PX + 4), 3)
    assert image.dtype == np.uint8


def test_spacing_sets_the_aspect_ratio():
    volume = np.random.default_rng(0).random((20, 10, 4), dtype=np.float32)
    square = mosaic({"a": volume}, slices=2, spacing_mm=(1.0, 2.0, 3.0))
    wide = mosaic({"a": volume}, slices=2, spacing_mm=(1.0, 1.0, 3.0))
    assert square.shape[0] - 8 == TILE_PX
    assert wide.shape[0] - 8 == TILE_PX // 2


def test_empty_slices_are_not_chosen():
    volume = np.zeros((16, 16, 32), np.float32)
    volume[:, :, 12:20] = np.random.default_rng(0).random((16, 16, 8))
    image = mosaic({"t2w": volume}, slices=4)
    for column in range(4):
        start = MARGIN_PX + column * (TILE_PX + 4)
        assert image[4 : 4 + TILE_PX, start + 30 : start + TILE_PX - 30].std() > 20


def test_a_dark_channel_is_brightened_and_says_so():
    dark = np.random.default_rng(0).random((16, 16, 8), dtype=np.float32) * 0.5
    bright = np.where(dark > 0, dark * 2, 0)
    one, other = mosaic({"hbv": dark}, slices=2), mosaic({"hbv": bright}, slices=2)
    np.testing.assert_allclose(
        one[4:, MARGIN_PX + 30 : MARGIN_PX + 140].astype(int), other[4:, MARGIN_PX + 30 : MARGIN_PX + 140], atol=3
    )
    assert (one[:, :MARGIN_PX] > 100).sum() > (other[:, :MARGIN_PX] > 100).sum()


def test_the_label_and_the_caption_take_space_and_are_drawn():
    volume = blob(8, 8, 4)
    plain = mosaic({"t2w": volume})
    labelled = mosaic({"t2w": volume}, caption="a report\nof two lines", label="synthetic")
    assert labelled.shape[0] == plain.shape[0] + 40
    assert (labelled[:20] > 180).any() and (labelled[20:40] > 180).any()


def test_a_long_caption_is_cut():
    image = mosaic({"t2w": blob(8, 8, 4)}, slices=2, caption="word " * 2000)
    assert image.shape[0] == mosaic({"t2w": blob(8, 8, 4)}, slices=2).shape[0] + 160


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 3)])
def test_tiles_are_shown_as_they_lie(shape):
    tile = np.zeros(shape, np.float32)
    tile[:6, :6] = 1
    image = mosaic({"he": tile})
    rows, columns = np.nonzero(image[4:, MARGIN_PX:].min(-1) > 240)
    assert rows.max() < TILE_PX / 2 and columns.max() < TILE_PX / 2


def test_colour_is_kept():
    tile = np.zeros((8, 8, 3), np.float32)
    tile[..., 0] = 1
    assert mosaic({"he": tile})[4 + TILE_PX // 2, MARGIN_PX + TILE_PX // 2].tolist() == [255, 0, 0]


def test_write_mosaic_is_a_png_with_the_same_bytes_each_time(tmp_path):
    items = [(f"exam {i}", {"t2w": blob(3 * i + 2, 8, 4), "adc": blob(8, 8, 4)}) for i in range(3)]
    for name in ("a.png", "b.png"):
        write_mosaic(tmp_path / name, items, spacing_mm=(1.5, 1.5, 3.0), label="synthetic")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_tiles_of_many_items_stand_in_a_grid_and_the_rest_is_counted(tmp_path):
    items = [(str(i), {"he": np.full((8, 8), 0.5, np.float32)}) for i in range(9)]
    write_mosaic(tmp_path / "all.png", items)
    write_mosaic(tmp_path / "some.png", items, most=5)
    every, some = (np.asarray(Image.open(tmp_path / name)) for name in ("all.png", "some.png"))
    assert every.shape[1] > 4 * TILE_PX and every.shape[1] <= 1400
    assert some.shape[0] < every.shape[0] and (some[-20:] > 180).any()


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        mosaic({"t2w": np.full((4, 4, 4), np.nan)})
    with pytest.raises(ValueError, match=r"\(4,\)"):
        mosaic({"t2w": np.zeros(4)})
    with pytest.raises(ValueError, match="at least one channel"):
        mosaic({})
    with pytest.raises(ValueError, match="at least one item"):
        write_mosaic(tmp_path / "x.png", [])

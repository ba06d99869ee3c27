"""DICOM series are found by what their files are, as PACS exports name them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.dicom_series import write_dicom

from ccella.imaging.errors import InputError
from ccella.imaging.exams import find_exams
from ccella.imaging.files import read_volume

CHANNELS = ("t2w", "hbv", "adc")
SHARED = Path(os.environ.get("CCELLA_SHARED", Path(__file__).parents[2] / "shared"))
PROSTATEX = SHARED / "data" / "prostatex"


def rename(folder: Path, name) -> None:
    """Gives the slices of a folder the names `name(number)`."""
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        path.rename(folder / name(number))


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f"IM{n + 1:05d}",
        lambda n: f"1.2.826.0.1.3680043.2.1125.1.{n}",
        lambda n: f"{n}.DCM",
        lambda n: f"{n}.IMA",
    ],
    ids=["IM00001", "UID", "DCM", "IMA"],
)
def test_slices_without_the_usual_ending_are_found(tmp_path, name):
    for channel in ("T2", "dwi", "case7_adc"):
        write_dicom(tmp_path / "case7" / channel, [0, 3, 6])
        rename(tmp_path / "case7" / channel, name)
    (tmp_path / "case7" / "T2" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "case7" / "dwi" / "1_notes").write_text("checked", encoding="utf-8")
    (exam,) = find_exams(tmp_path, CHANNELS)
    assert exam.id == "case7"
    assert {channel: path.name for channel, path in exam.files.items()} == {
        "t2w": "T2", "hbv": "dwi", "adc": "case7_adc",
    }  # fmt: skip
    for path in exam.files.values():
        assert read_volume(path).data[1, 1].tolist() == [7, 107, 207]


def test_what_is_no_series_is_not_taken_for_one(tmp_path):
    """Text of any name, an index without slices, a folder within, and a series whose folder names no channel."""
    for channel in CHANNELS:
        (tmp_path / "case" / channel / "inner").mkdir(parents=True)
        (tmp_path / "case" / channel / "IM00001").write_text("x" * 200, encoding="utf-8")
        (tmp_path / "case" / channel / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        os.mkfifo(tmp_path / "case" / channel / "A")
    write_dicom(tmp_path / "case" / "localiser", [0, 3])
    with pytest.raises(InputError, match="No exam with the channels"):
        find_exams(tmp_path, CHANNELS)


@pytest.mark.skipif(not PROSTATEX.is_dir(), reason=f"the two real exams are not at {PROSTATEX} (set CCELLA_SHARED)")
def test_a_real_exam_as_a_pacs_exports_it(tmp_path):
    words = {"t2w": "t2tse", "adc": "ADC", "hbv": "CALCBVAL"}
    for channel, word in words.items():
        (source,) = (PROSTATEX / "dicom" / "ProstateX-0001").glob(f"*{word}*")
        shutil.copytree(source, tmp_path / "ProstateX-0001" / channel)
        rename(tmp_path / "ProstateX-0001" / channel, lambda n: f"IM{n + 1:05d}")
    (exam,) = find_exams(tmp_path, CHANNELS)
    for channel, path in exam.files.items():
        mha = read_volume(PROSTATEX / "ProstateX-0001" / f"ProstateX-0001_{channel}.mha")
        np.testing.assert_array_equal(read_volume(path).data, mha.data)

"""Collections of phantoms on disk: their layout, completion, and what is never overwritten."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from ccella.imaging.errors import InputError
from ccella.imaging.files import read_volume
from ccella.imaging.phantom.collection import MARKSHEET_COLUMNS, plan_collection, remove_exams
from ccella.imaging.phantom.dataset import write_phantoms
from ccella.imaging.phantom.exam import make_exam
from ccella.imaging.phantom.findings import Findings

SMALL = {"shape": (32, 32, 16), "spacing_mm": (3.0, 3.0, 6.0)}


def test_collection_has_the_pi_cai_layout(tmp_path: Path) -> None:
    records = list(write_phantoms(tmp_path, 3, 0, start=2, prevalence=0.6, workers=1, **SMALL))
    assert [record["id"] for record in records] == [f"phantom1s0-{index:05d}_1" for index in (2, 3, 4)]
    with (tmp_path / "marksheet.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for record, row, index in zip(records, rows, (2, 3, 4), strict=True):
        exam = make_exam(0, index, prevalence=0.6, **SMALL)
        assert f"{row['patient_id']}_{row['study_id']}" == record["id"] == exam.id
        assert row["case_csPCa"] == ("YES" if exam.findings.positive else "NO")
        assert record["class"] == int(exam.findings.positive)
        assert row["lesion_PIRADS"] == ",".join(str(lesion.pirads) for lesion in exam.findings.lesions)
        assert float(row["psa"]) == exam.findings.psa_ng_ml
        assert record["text"] == exam.report == (tmp_path / "reports" / f"{exam.id}.txt").read_text(encoding="utf-8")
        stored = json.loads((tmp_path / "findings" / f"{exam.id}.json").read_text(encoding="utf-8"))
        assert Findings.from_dict(stored) == exam.findings
        assert Path(record["files"]["adc"]) == tmp_path / exam.patient_id / f"{exam.id}_adc.nii.gz"
        for name, path in {**record["files"], **record["masks"]}.items():
            np.testing.assert_array_equal(read_volume(path).data, getattr(exam, name).data)


def test_collection_resumes_and_repairs(tmp_path: Path) -> None:
    first = list(write_phantoms(tmp_path, 2, 0, workers=1, **SMALL))
    bytes_before = Path(first[1]["files"]["hbv"]).read_bytes()
    Path(first[0]["masks"]["lesions"]).unlink()
    Path(first[1]["files"]["hbv"]).write_bytes(bytes_before[: len(bytes_before) // 2])
    (tmp_path / "marksheet.csv").unlink()
    second = list(write_phantoms(tmp_path, 3, 0, workers=1, **SMALL))
    assert [record["written"] for record in second] == [True, True, True]
    assert Path(first[1]["files"]["hbv"]).read_bytes() == bytes_before
    third = list(write_phantoms(tmp_path, 3, 0, workers=1, **SMALL))
    assert [record["written"] for record in third] == [False, False, False]
    assert [record["id"] for record in third] == [record["id"] for record in second]
    assert len((tmp_path / "marksheet.csv").read_text(encoding="utf-8").splitlines()) == 4


def test_stopping_early_leaves_a_marksheet(tmp_path: Path) -> None:
    writing = write_phantoms(tmp_path, 5, 0, workers=1, **SMALL)
    next(writing)
    writing.close()  # type: ignore[attr-defined]
    assert len((tmp_path / "marksheet.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_workers_do_not_change_the_exams(tmp_path: Path) -> None:
    with threadpool_limits(2):  # what a user's shell has, where the tests' has one thread
        one = list(write_phantoms(tmp_path / "one", 2, 9, workers=1, **SMALL))
    two = list(write_phantoms(tmp_path / "two", 2, 9, workers=2, **SMALL))
    for a, b in zip(one, two, strict=True):
        assert a["text"] == b["text"]
        for name in a["files"]:
            assert Path(a["files"][name]).read_bytes() == Path(b["files"][name]).read_bytes()


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (24, 24, 12), "spacing_mm": (4.0, 4.0, 8.0)}, "is there already, with .* voxels of .* mm"),
        ({**SMALL, "prevalence": 1.0}, "another --prevalence"),
        ({**SMALL, "prevalence": 1.0, "even_places": True}, "another --prevalence or --even-places"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_exams_of_other_arguments_are_not_overwritten(
    tmp_path: Path, arguments: dict, words: str, workers: int
) -> None:
    list(write_phantoms(tmp_path, 2, 0, workers=1, prevalence=0.0, **SMALL))
    before = read_all(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        list(write_phantoms(tmp_path, 2, 0, workers=workers, **{"prevalence": 0.0, **arguments}))
    assert "--overwrite" in caught.value.remedy
    assert read_all(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "patient_id,study_id,mri_date,case_csPCa,center\n10000,1000000,2019-07-02,NO,PCNN\n",
        "case,label\nx,1\n",
        ",".join(MARKSHEET_COLUMNS) + ",fold\n" + "," * len(MARKSHEET_COLUMNS) + "train\n",
    ],
    ids=["PI-CAI", "foreign", "a column more"],
)
def test_a_marksheet_of_something_else_is_refused_before_work(tmp_path: Path, text: str) -> None:
    (tmp_path / "marksheet.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is not a marksheet of phantoms") as caught:
        write_phantoms(tmp_path, 1, 0, workers=1, **SMALL)
    assert caught.value.remedy
    assert read_all(tmp_path) == {tmp_path / "marksheet.csv": text.encode()}


def test_a_binary_marksheet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "marksheet.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a readable CSV file"):
        write_phantoms(tmp_path, 1, 0, workers=1, **SMALL)


def test_removal_takes_one_collection_and_nothing_else(tmp_path: Path) -> None:
    list(write_phantoms(tmp_path, 1, 11, workers=1, **SMALL))
    (tmp_path / "phantom1s1-00000").mkdir(exist_ok=True)
    (tmp_path / "phantom1s1-00000" / "notes.txt").write_text("mine", encoding="utf-8")
    alone = read_all(tmp_path)
    list(write_phantoms(tmp_path, 3, 1, workers=1, **SMALL))
    collection = plan_collection(tmp_path, 1, **SMALL)
    remove_exams(collection, [1])
    left = {path.name for path in tmp_path.glob("phantom1s1-*/*_t2w.nii.gz")}
    assert left == {f"phantom1s1-0000{index}_1_t2w.nii.gz" for index in (0, 2)}
    remove_exams(collection)
    assert read_all(tmp_path) == alone
    assert not (tmp_path / "phantom1s1-00002").exists()

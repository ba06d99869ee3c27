"""Splits and data report of an encode run; single exams that cannot be used."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from ccella.cli.main import run
from ccella.imaging.errors import InputError
from ccella.imaging.exams import find_exams
from ccella.imaging.splits import read_splits, write_splits
from ccella.pipeline.cohort import doubt_classes, plan_splits

FIRST, SECOND, THIRD = "10001_1000001", "10002_1000002", "10003_1000003"
CHANNELS = ("t2w", "hbv", "adc")


@pytest.fixture
def source(tiny_exams, tmp_path):
    shutil.copytree(tiny_exams, tmp_path / "exams")
    return tmp_path / "exams"


def encode(source, out, model, *options):
    return run(["encode", str(source), "-o", str(out), "--model", str(model), "-q", *options])


def test_a_run_leaves_splits_and_a_report_that_count_what_is_there(source, tiny_model, tmp_path, capsys):
    assert encode(source, tmp_path / "o", tiny_model) == 0
    splits = read_splits(tmp_path / "o/splits.csv")
    assert set(splits) == {"10001", "10002", "10003"}
    report = json.loads((tmp_path / "o/data-report.json").read_text(encoding="utf-8"))
    assert (report["exams"], report["patients"]) == (3, 3)
    assert report["classes"] == {"0": 1, "1": 2, "unknown": 0}
    assert report["missing"] == {"report": 1, "class": 0}
    assert report["reports"] == {"distinct": 2, "cut": 0}
    assert report["failed"] == []
    assert sum(part["exams"] for part in report["splits"].values()) == 3
    # Independent of the code under test: nibabel and numpy on the files themselves.
    images = [nibabel.load(source / f"1000{n}/1000{n}_100000{n}_t2w.nii.gz") for n in (1, 2, 3)]
    medians = [float(np.percentile(image.get_fdata(), 50)) for image in images]
    found = report["intensity"]["t2w"]["p50"]
    assert found["min"] == pytest.approx(min(medians), rel=1e-4)
    assert found["median"] == pytest.approx(sorted(medians)[1], rel=1e-4)
    assert found["max"] == pytest.approx(max(medians), rel=1e-4)
    assert report["source"]["spacing_mm"]["z"]["median"] == pytest.approx(float(images[0].header.get_zooms()[2]))
    assert report["source"]["shapes"] == {"18x18x8": 3}


def test_one_bad_exam_of_each_kind_is_listed_and_the_rest_done(source, tiny_model, tmp_path, capsys):
    (source / f"reports/{SECOND}.txt").write_bytes(b"\x89PNG\x00\xff")
    (source / f"10001/{FIRST}_adc.nii.gz").unlink()
    assert encode(source, tmp_path / "o", tiny_model) == 7
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [THIRD]
    assert f"{FIRST}: Exam '{FIRST}' in {source} has no 'adc'" in err
    assert f"{SECOND}: The report {source}/reports/{SECOND}.txt is not UTF-8 text." in err
    report = json.loads((tmp_path / "o/data-report.json").read_text(encoding="utf-8"))
    assert [failure["id"] for failure in report["failed"]] == [FIRST, SECOND]
    # Mended, they join what is there.
    (source / f"reports/{SECOND}.txt").write_text("No suspicious lesion", encoding="utf-8")
    assert encode(source, tmp_path / "o", tiny_model, "--resume") == 7
    assert set(read_splits(tmp_path / "o/splits.csv")) == {"10002", "10003"}
    assert json.loads((tmp_path / "o/data-report.json").read_text(encoding="utf-8"))["exams"] == 2


def test_exams_none_of_which_can_be_used_are_wrong_input(source):
    for number in (1, 2, 3):
        (source / f"1000{number}/1000{number}_100000{number}_adc.nii.gz").unlink()
    seen = []
    with pytest.raises(InputError, match="has no 'adc'"):
        find_exams(source, CHANNELS, lambda item_id, error: seen.append(item_id))
    assert seen == [FIRST, SECOND, THIRD]


def manifest(source, splits, name="list.csv"):
    """A manifest of the three exams, two of them of one patient, with a column for the split."""
    rows = ["id,patient_id,t2w,hbv,adc,class,split"]
    for number, split in enumerate(splits, 1):
        exam = f"1000{number}_100000{number}"
        files = ",".join(f"1000{number}/{exam}_{channel}.nii.gz" for channel in CHANNELS)
        rows.append(f"{exam},{'ann' if number < 3 else 'bob'},{files},1,{split}")
    (source / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return source / name


def test_a_patient_in_two_splits_is_refused_before_anything_is_written(source, tiny_model, tmp_path, capsys):
    assert encode(manifest(source, ("train", "test", "test")), tmp_path / "o", tiny_model) == 2
    assert "Patient 'ann' is in two splits, train and test (column 'split')." in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_column_is_kept_to_and_may_not_contradict_what_was_written(source, tmp_path):
    exams = find_exams(manifest(source, ("val", "val", "test")), CHANNELS)
    assert plan_splits(tmp_path, exams) == {"ann": "val", "bob": "test"}
    write_splits(tmp_path / "splits.csv", {"ann": "train", "old": "test"}, {})
    with pytest.raises(InputError, match=r"Patient 'ann' is in two splits, train \(.*splits.csv\) and val"):
        plan_splits(tmp_path, exams)
    # Shares only fill up: who has a split keeps it.
    assert plan_splits(tmp_path, exams, "0.5:0:0.5") == {"ann": "train", "old": "test", "bob": "test"}
    with pytest.raises(InputError, match="holds splits"):
        plan_splits(tmp_path, exams, "none")


def test_another_runs_file_may_state_the_splits(source, tmp_path):
    exams, table = find_exams(source, CHANNELS), tmp_path / "other.csv"
    patients = sorted({exam.patient_id for exam in exams})
    stated = dict(zip(patients, ("val", "train", "test"), strict=False))
    write_splits(table, stated | {"elsewhere": "test"}, {})
    assert plan_splits(tmp_path / "o", exams, str(table)) == stated
    write_splits(table, {patients[0]: "val"}, {})
    with pytest.raises(InputError, match=rf"names no split for {len(patients) - 1} patients, the first is"):
        plan_splits(tmp_path / "o", exams, str(table))


def test_runs_begun_without_splits_and_streams_have_none(source, tmp_path):
    exams = find_exams(source, CHANNELS)
    (tmp_path / "manifest.jsonl").write_text("{}\n", encoding="utf-8")
    assert plan_splits(tmp_path, exams, resume=True) is None
    assert plan_splits(tmp_path, exams, "80:5:15", resume=True)
    assert plan_splits(tmp_path, None) is None
    with pytest.raises(InputError, match="standard input cannot be divided"):
        plan_splits(tmp_path, None, "80:5:15")


def test_classes_that_teach_nothing_are_said(source):
    exams = find_exams(manifest(source, ("train",) * 3), CHANNELS)
    assert doubt_classes(exams) == ["Every exam that has a class has class 1: a class head cannot learn."]
    blank = [type(exam)(exam.id, exam.patient_id, exam.files) for exam in exams]
    assert doubt_classes(blank)[0].startswith("No exam has a class")
    assert doubt_classes([blank[0], *exams])[0] == "1 of 4 exams have no class."
    assert doubt_classes(find_exams(source, CHANNELS)) == []


def test_every_shard_sees_the_same_splits(source, tiny_model, tmp_path, capsys):
    assert encode(source, tmp_path / "one", tiny_model) == 0
    for shard in ("2/2", "1/2"):
        assert encode(source, tmp_path / "two", tiny_model, "--shard", shard) == 0
    assert read_splits(tmp_path / "one/splits.csv") == read_splits(tmp_path / "two/splits.csv")
    parts = [json.loads((tmp_path / f"two/data-report-{n}-of-2.json").read_text(encoding="utf-8")) for n in (1, 2)]
    assert sum(part["exams"] for part in parts) == 3
    assert encode(source, tmp_path / "two", tiny_model, "--resume") == 0
    whole = [json.loads((tmp_path / out / "data-report.json").read_text(encoding="utf-8")) for out in ("one", "two")]
    assert whole[0] == whole[1]


def test_a_dry_run_shows_splits_and_writes_nothing(source, tiny_model, tmp_path, capsys):
    assert encode(source, tmp_path / "o", tiny_model, "--dry-run", "--split", "1:0:0", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 3
    assert not (tmp_path / "o").exists()

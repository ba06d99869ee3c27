"""Exams are found in every layout and manifest, and what is amiss in one is said in a sentence."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from support.dicom_series import write_dicom

from ccella.imaging.errors import InputError
from ccella.imaging.exams import exams_from_records, find_exams
from ccella.imaging.names import check_id, match_channel

CHANNELS = ("t2w", "hbv", "adc")


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_exams_of_a_manifest_keep_its_order(tmp_path, name):
    ids = ["b10", "b9", "a", "10", "C"]
    rows = [{"id": identifier, "t2w": "t.nii", "hbv": "h.nii", "adc": "a.nii"} for identifier in ids]
    lines = [json.dumps(row) for row in rows]
    if name == "m.csv":
        lines = [",".join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert [exam.id for exam in find_exams(tmp_path / name, CHANNELS)] == ids


def touch(path: Path) -> Path:
    """Makes an empty file, for tests that look at names only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def pi_cai(root: Path, sheet: str = "clinical_information/marksheet.csv") -> Path:
    for study in ("10000_1000000", "10000_1000001", "10001_1000002"):
        for channel in (*CHANNELS, "sag", "cor"):
            touch(root / "images" / study.split("_")[0] / f"{study}_{channel}.mha")
    touch(root / "csPCa_lesion_delineations" / "10000_1000000.nii.gz")
    touch(root / sheet).write_text(
        "patient_id,study_id,psa,case_ISUP,case_csPCa,lesion_PIRADS\n"
        '10000,1000000,7.7,0,NO,\n10000,1000001,8.7,2,YES,4\n10001,1000002,,,,"3,5"\n',
        encoding="utf-8",
    )
    touch(root / "reports" / "10000_1000001.txt").write_text("PI-RADS 4 Läsion", encoding="utf-8")
    return root


@pytest.mark.parametrize("sheet", ["clinical_information/marksheet.csv", "marksheet.csv"])
def test_pi_cai_layout(tmp_path, sheet):
    exams = find_exams(pi_cai(tmp_path / "picai", sheet), CHANNELS)
    assert [exam.id for exam in exams] == ["10000_1000000", "10000_1000001", "10001_1000002"]
    assert [exam.patient_id for exam in exams] == ["10000", "10000", "10001"]
    assert [exam.label for exam in exams] == [0, 1, None]
    assert [exam.text for exam in exams] == [None, "PI-RADS 4 Läsion", None]
    assert exams[1].files["hbv"].name == "10000_1000001_hbv.mha"
    assert exams[2].meta["lesion_PIRADS"] == "3,5"


def test_one_exam_folder_of_the_pi_cai_layout_still_finds_its_marksheet(tmp_path):
    root = tmp_path / "flat"
    for channel in CHANNELS:
        touch(root / "7" / f"7_1_{channel}.nii.gz")
    (root / "marksheet.csv").write_text("patient_id,study_id,case_csPCa\n7,1,YES\n8,1,NO\n", encoding="utf-8")
    (exam,) = find_exams(root / "7", CHANNELS)
    assert (exam.id, exam.patient_id, exam.label) == ("7_1", "7", 1)


def test_a_report_column_of_the_marksheet_is_read(tmp_path):
    for channel in CHANNELS:
        touch(tmp_path / "7" / f"7_1_{channel}.nii.gz")
    (tmp_path / "marksheet.csv").write_text('patient_id,study_id,report\n7,1,"normal, no lesion"\n', encoding="utf-8")
    assert find_exams(tmp_path, CHANNELS)[0].text == "normal, no lesion"


def test_prostate158_layout(tmp_path):
    for case in ("021", "020"):
        for name in ("t2", "adc", "dwi", "t2_anatomy_reader1", "adc_tumor_reader1", "empty"):
            touch(tmp_path / "train" / case / f"{name}.nii.gz")
    exams = find_exams(tmp_path, CHANNELS)
    assert [(exam.id, exam.patient_id) for exam in exams] == [("020", "020"), ("021", "021")]
    assert {channel: path.name for channel, path in exams[0].files.items()} == {
        "t2w": "t2.nii.gz",
        "adc": "adc.nii.gz",
        "hbv": "dwi.nii.gz",
    }


def test_plain_folders_of_any_channels_and_endings(tmp_path):
    touch(tmp_path / "one" / "one_t1.nii")
    touch(tmp_path / "one" / "FLAIR.nrrd")
    touch(tmp_path / ".hidden" / "t1.nii")
    touch(tmp_path / "one" / ".one_t1.nii.gz.0a1b2c3d.part")
    (exam,) = find_exams(tmp_path, ("t1", "flair"))
    assert exam.id == exam.patient_id == "one"
    assert (exam.files["t1"].name, exam.files["flair"].name) == ("one_t1.nii", "FLAIR.nrrd")


def test_a_dicom_series_folder_is_a_channel(tmp_path):
    for channel in ("T2", "adc", "dwi"):
        touch(tmp_path / "case7" / channel / "1-01.dcm")
    (exam,) = find_exams(tmp_path, CHANNELS)
    assert exam.id == "case7"
    assert exam.files["t2w"] == (tmp_path / "case7" / "T2").resolve()


def test_links_are_followed_once(tmp_path):
    for channel in CHANNELS:
        touch(tmp_path / "store" / "case" / f"{channel}.nii.gz")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "case").symlink_to(tmp_path / "store" / "case")
    (tmp_path / "store" / "case" / "loop").symlink_to(tmp_path / "data")
    assert [exam.id for exam in find_exams(tmp_path / "data", CHANNELS)] == ["case"]


def test_an_input_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(InputError("The thing is 7.", "Change it.")))
    assert (str(error), error.message, error.remedy) == ("The thing is 7.", "The thing is 7.", "Change it.")


def test_csv_manifest(tmp_path):
    touch(tmp_path / "r.txt").write_text("from a file", encoding="utf-8")
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "id,patient_id,t2w,dwi,adc,text,report_path,class,spacing_mm,scanner\n"
        'b,p1,b/t.nii,b/h.nii,/abs/a.nii,"two, words",,YES,0.5x0.5x3,Skyra\n'
        "a,,a/t.nii,a/h.nii,a/a.nii,,r.txt,0,,\n",
        encoding="utf-8",
    )
    other, one = find_exams(manifest, CHANNELS)
    assert (one.id, one.patient_id, one.text, one.label) == ("a", "a", "from a file", 0)
    assert (other.id, other.patient_id, other.text, other.label) == ("b", "p1", "two, words", 1)
    assert other.files == {"t2w": tmp_path / "b/t.nii", "hbv": tmp_path / "b/h.nii", "adc": Path("/abs/a.nii")}
    assert other.spacing_mm == (0.5, 0.5, 3.0) and one.spacing_mm is None
    assert other.meta["scanner"] == "Skyra"


def test_jsonl_manifest(tmp_path):
    row = {"id": 7, "t2w": "t.nii", "hbv": "h.nii", "adc": "a.nii", "report": "r", "class": 1, "spacing_mm": [1, 1, 3]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    (exam,) = find_exams(tmp_path / "m.jsonl", CHANNELS)
    assert (exam.id, exam.text, exam.label, exam.spacing_mm) == ("7", "r", 1, (1.0, 1.0, 3.0))


def record(identifier: str, channel: str, **more: object) -> str:
    return json.dumps(
        {"kind": "volume", "id": identifier, "channel": channel, "path": f"{identifier}/{channel}.nii", **more}
    )


def test_records_of_a_pipe_become_exams_as_they_arrive():
    def lines():
        for identifier in ("b", "a"):
            yield json.dumps({"kind": "latent", "id": identifier, "path": "z.safetensors"})
            for channel in CHANNELS:
                yield record(identifier, channel, prompt=f"report {identifier}")
        raise AssertionError("read past the second exam before the first was handed on")

    exams = exams_from_records(lines(), CHANNELS, base=Path("run"))
    first = next(exams)
    assert (first.id, first.text) == ("b", "report b")
    assert first.files == {channel: Path(f"run/b/{channel}.nii") for channel in CHANNELS}


def test_a_run_folders_manifest_is_a_source(tmp_path):
    text = "\n".join(record(i, c, **{"class": 1}) for i in ("x2", "x1") for c in CHANNELS)
    (tmp_path / "manifest.jsonl").write_text(text, encoding="utf-8")
    exams = find_exams(tmp_path, CHANNELS)
    assert [exam.id for exam in exams] == ["x2", "x1"]
    assert find_exams(tmp_path / "manifest.jsonl", CHANNELS) == exams
    assert exams[1].files["adc"] == tmp_path / "x1/adc.nii" and exams[1].label == 1


def test_the_manifests_of_all_shards_are_one_source(tmp_path):
    """With what the records tell of class, report and patient; a shard that is missing is not passed over."""
    for number, identifier in enumerate(("x2", "x1"), 1):
        known = {"class": number - 1, "patient_id": "P1", "prompt": f"Report {number}."}
        lines = [record(identifier, channel, **known) for channel in CHANNELS]
        (tmp_path / f"manifest-{number}-of-3.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="lacks the manifest of shard 3/3"):
        find_exams(tmp_path, CHANNELS)
    (tmp_path / "manifest-3-of-3.jsonl").touch()  # a share of no item
    exams = find_exams(tmp_path, CHANNELS)
    assert [(exam.id, exam.patient_id, exam.label) for exam in exams] == [("x2", "P1", 0), ("x1", "P1", 1)]
    assert exams[0].text == "Report 1."
    twice = (tmp_path / "manifest-1-of-3.jsonl").read_text(encoding="utf-8")
    (tmp_path / "manifest-3-of-3.jsonl").write_text(twice, encoding="utf-8")
    with pytest.raises(InputError, match="lists the id 'x2' twice"):
        find_exams(tmp_path, CHANNELS)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1 is not JSON"),
        (["[1]"], "line 1 is not a JSON object"),
        (['{"id": "a"}'], "no 'channel' and 'path'"),
        ([record("a", "t2w"), record("a", "t2w")], "two files for 't2w'"),
        ([record("a", "t2w")], "Exam 'a' in standard input has no 'hbv'"),
        ([record(i, c) for i in "aba" for c in CHANNELS], "do not stand together"),
        ([record("../a", c) for c in CHANNELS], "path separator"),
        ([record("", c) for c in CHANNELS], "has no id"),
    ],
)
def test_bad_records_are_refused(lines, words):
    with pytest.raises(InputError, match=words):
        list(exams_from_records(lines, CHANNELS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,t2w,hbv,adc\n", "lists no exam"),
        ("id,t2w,hbv,adc\na,t,h,\n", "Exam 'a'.*has no 'adc'; it has hbv, t2w"),
        ("id,t2w,hbv,adc\na,t,h,a\nb,t,h,a\na,t,h,a\n", "lists the id 'a' twice"),
        ("t2w,hbv,adc\nt,h,a\n", "line 2 has no id"),
        ("id,t2w,hbv,adc\na,t,h\n", "line 2 does not have as many cells"),
        ("id,t2w,hbv,adc\na/b,t,h,a\n", "path separator"),
        ("id,t2w,hbv,adc,class\na,t,h,a,maybe\n", "class 'maybe'"),
        ("id,t2w,hbv,adc,spacing_mm\na,t,h,a,-1\n", "spacing '-1'"),
        ("id,t2w,hbv,adc,report_path\na,t,h,a,none.txt\n", "none.txt does not exist"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, text, words):
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as error:
        find_exams(tmp_path / "m.csv", CHANNELS)
    assert error.value.remedy


def test_a_binary_manifest_or_report_is_refused(tmp_path):
    for name in ("m.csv", "m.jsonl"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(InputError, match=r"UTF-8|readable CSV"):
            find_exams(tmp_path / name, CHANNELS)
    root = pi_cai(tmp_path / "picai")
    (root / "reports" / "10000_1000001.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match=r"10000_1000001\.txt is not UTF-8"):
        find_exams(root, CHANNELS)


def test_nothing_found_says_what_was_looked_for(tmp_path):
    touch(tmp_path / "x" / "notes.txt")
    with pytest.raises(InputError, match="No exam with the channels t2w, hbv, adc") as error:
        find_exams(tmp_path, CHANNELS)
    assert "PI-CAI" in error.value.remedy and ".mha" in error.value.remedy
    with pytest.raises(InputError, match="does not exist"):
        find_exams(tmp_path / "absent", CHANNELS)
    with pytest.raises(InputError, match="neither a folder nor a manifest"):
        find_exams(touch(tmp_path / "a_t2w.nii.gz"), CHANNELS)


def test_an_exam_without_a_sequence_is_named(tmp_path):
    root = pi_cai(tmp_path / "picai")
    (root / "images" / "10001" / "10001_1000002_hbv.mha").unlink()
    with pytest.raises(InputError, match=r"'10001_1000002'.*has no 'hbv'; it has adc, t2w") as error:
        find_exams(root, CHANNELS)
    assert "hbv or dwi" in error.value.remedy
    assert len(find_exams(root, ("t2w", "adc"))) == 3


def test_two_files_for_one_channel_are_refused(tmp_path):
    root = pi_cai(tmp_path / "picai")
    touch(root / "more" / "10000" / "10000_1000000_t2w.nii.gz")
    with pytest.raises(InputError, match="'10000_1000000' has two files for 't2w'"):
        find_exams(root, CHANNELS)


def test_an_exam_with_two_files_for_a_channel_stops_no_other(tmp_path):
    root = pi_cai(tmp_path / "picai")
    touch(root / "more" / "10000" / "10000_1000000_t2w.nii.gz")
    problems = []
    exams = find_exams(root, CHANNELS, lambda identifier, error: problems.append((identifier, error.message)))
    assert "10000_1000000" not in [exam.id for exam in exams] and len(exams) == 2
    assert [identifier for identifier, _ in problems] == ["10000_1000000"] and "two files" in problems[0][1]


def test_dicom_series_of_other_names_are_told(tmp_path):
    write_dicom(tmp_path / "patient" / "t2_tse_tra", [0, 3, 6])
    with pytest.raises(InputError, match=r"1 DICOM series of other names, such as .*t2_tse_tra") as error:
        find_exams(tmp_path, CHANNELS)
    assert "list them in a manifest" in error.value.remedy


def test_two_rows_for_one_exam_are_refused(tmp_path):
    root = pi_cai(tmp_path / "picai")
    sheet = root / "clinical_information" / "marksheet.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8") + "10000,1000000,1,0,YES,\n", encoding="utf-8")
    with pytest.raises(InputError, match="two rows for '10000_1000000'"):
        find_exams(root, CHANNELS)
    sheet.write_text("patient,study\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column 'patient_id'"):
        find_exams(root, CHANNELS)


@pytest.mark.parametrize("good", ["a", "10000_1000000", "phantom1s3-00017_1", "x" * 200, "a.b"])
def test_safe_ids(good):
    assert check_id(good, "here") == good


def test_letters_that_file_names_cannot_hold_are_refused():
    """Under LC_ALL=C a name with an umlaut cannot be written; elsewhere it can."""
    code = "from ccella.imaging.names import check_id; print(ascii(check_id('M\\xfcller 7', 'here')))"
    plain = {**os.environ, "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    run = [sys.executable, "-c", code]
    wide = subprocess.run(run, env=plain | {"PYTHONUTF8": "1"}, capture_output=True, text=True, check=True)
    assert wide.stdout.strip() == r"'M\xfcller 7'"
    narrow = subprocess.run(run, env=plain | {"PYTHONUTF8": "0"}, capture_output=True, text=True, check=False)
    assert "holds letters that file names cannot hold here" in narrow.stderr


@pytest.mark.parametrize(
    "bad", ["", "a/b", "a\\b", "..", "a..b", ".hidden", "a\nb", "a\x00b", "a\u202eb", " a", "x" * 201, "ü" * 101]
)
def test_unsafe_ids(bad):
    with pytest.raises(InputError, match=r"from here.*cannot name a file"):
        check_id(bad, "here")


def test_channels_are_matched_by_name_and_alias():
    assert match_channel("10000_1_t2w", CHANNELS) == ("10000_1", "t2w")
    assert match_channel("DWI", CHANNELS) == ("", "hbv")
    assert match_channel("a_b_ADC", CHANNELS) == ("a_b", "adc")
    assert match_channel("t2_anatomy_reader1", CHANNELS) is None
    assert match_channel("roadc", CHANNELS) is None
    assert match_channel("_t2w", CHANNELS) is None

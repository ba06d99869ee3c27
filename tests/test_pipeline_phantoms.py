"""`ccella phantom` as a run: what a folder remembers, what --overwrite replaces, and who may write."""

import json
import os
import signal

import pytest

GRID = ("--shape", "16,16,8", "--spacing", "6,6,12")
WORDS = ("phantom", *GRID, "--workers", "1", "-q", "-n")


@pytest.fixture(scope="module")
def base(program, tmp_path_factory):
    base = tmp_path_factory.mktemp("phantoms")
    done = program.run(*WORDS, "4", "-o", "whole", cwd=base)
    assert done.code == 0, done.err
    return base


@pytest.fixture
def whole(base, read_files) -> dict[str, bytes]:
    """The files of four exams, written undisturbed."""
    return read_files(base / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shape", "16,16,9"), "phantom1s0.shape = [16, 16, 8], but this one has [16, 16, 9]."),
        (("--spacing", "6,6,11"), "phantom1s0.spacing_mm = [6.0, 6.0, 12.0], but this one has [6.0, 6.0, 11.0]."),
        (("--prevalence", "1", "--resume"), "phantom1s0.prevalence = null, but this one has 1.0."),
        (("--even-places",), "phantom1s0.even_places"),
        # Indices that are not there yet: they would be of another kind than the others.
        (("--prevalence", "1", "--start", "9"), "phantom1s0.prevalence = null, but this one has 1.0."),
    ],
)
def test_other_options_are_refused_and_nothing_is_written(options, words, program, whole, read_files, tmp_path):
    assert program.run(*WORDS, "2", "-o", "out", cwd=tmp_path).code == 0
    before = read_files(tmp_path / "out")
    done = program.run(*WORDS, "2", *options, "-o", "out", cwd=tmp_path)
    assert (done.code, words in done.err, "--overwrite" in done.err) == (2, True, True), done.err
    assert read_files(tmp_path / "out") == before
    assert before.items() <= whole.items() | {("marksheet.csv", before["marksheet.csv"])}


def test_a_collection_grows_beside_another_and_is_replaced_when_asked(program, whole, read_files, tmp_path):
    out = tmp_path / "out"
    for words in (("3", "--prevalence", "1"), ("1", "--seed", "7", "--prevalence", "0.5")):
        assert program.run(*WORDS, *words, "-o", "out", cwd=tmp_path).code == 0
    other = {name: data for name, data in read_files(out).items() if "phantom1s7-" in name}
    assert len(other) == 7
    assert program.run(*WORDS, "2", "--overwrite", "-o", "out", cwd=tmp_path).code == 0
    files = read_files(out)
    asked = {name for name in whole if "-00000_" in name or "-00001_" in name}
    assert {name for name in files if "phantom1s0-" in name} == asked
    assert all(data == whole[name] for name, data in files.items() if "phantom1s0-" in name)
    assert {name: data for name, data in files.items() if "phantom1s7-" in name} == other
    rows = files["marksheet.csv"].decode().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["phantom1s0-00000", "1"], ["phantom1s0-00001", "1"], ["phantom1s7-00000", "1"],
    ]  # fmt: skip
    assert program.run(*WORDS, "4", "--resume", "-o", "out", cwd=tmp_path).code == 0
    assert whole.items() <= read_files(out).items() | {("marksheet.csv", whole["marksheet.csv"])}
    settings = json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]
    assert settings["collections"]["phantom1s7"] == {
        "shape": [16, 16, 8], "spacing_mm": [6.0, 6.0, 12.0], "prevalence": 0.5,
    }  # fmt: skip


def test_a_second_process_is_refused_while_the_first_is_at_work(program, whole, read_files, tmp_path):
    first = program.start(*WORDS, "4", "-o", "out", cwd=tmp_path, at={"rename": 12, "do": "SIGSTOP"})
    first.wait_until_stopped()
    before = read_files(tmp_path / "out")
    assert [name for name in before if name.endswith(".part")]
    for options in ([], ["--resume"], ["--overwrite"], ["--start", "9"], ["--shard", "1/2"]):
        second = program.run(*WORDS, "4", *options, "-o", "out", cwd=tmp_path)
        assert (second.code, "Another process is writing to out." in second.err) == (2, True), second.err
    assert read_files(tmp_path / "out") == before
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().code == 0
    assert read_files(tmp_path / "out") == whole


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_shards_at_the_same_time_join(options, program, whole, read_files, tmp_path):
    if options:
        assert program.run(*WORDS, "6", "--prevalence", "1", "-o", "out", cwd=tmp_path).code == 0
    share = (*WORDS, "4", *options, "-o", "out", "--shard")
    first = program.start(*share, "1/2", cwd=tmp_path, at={"rename": 5, "do": "SIGSTOP"})
    first.wait_until_stopped()
    assert "2 shards are writing" in program.run(*share, "3/3", cwd=tmp_path).err
    other = program.run(*share, "2/2", "--prevalence", "1", cwd=tmp_path)
    assert (other.code, "prevalence = null, but this one has 1.0" in other.err) == (2, True), other.err
    second = program.run(*share, "2/2", cwd=tmp_path)
    assert second.code == 0, second.err
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().code == 0
    assert read_files(tmp_path / "out") == whole


def test_what_cannot_be_meant_is_refused(program, tmp_path):
    done = program.run(*WORDS, "1", "--resume", "--overwrite", "-o", "out", cwd=tmp_path)
    assert (done.code, "exclude each other" in done.err) == (2, True)
    (tmp_path / "foreign").mkdir()
    sheet = tmp_path / "foreign/marksheet.csv"
    sheet.write_text("patient_id,study_id,mri_date\n10000,1000000,2019-07-02\n", encoding="utf-8")
    for options in ((), ("--overwrite",)):
        done = program.run(*WORDS, "1", *options, "-o", "foreign", cwd=tmp_path)
        assert (done.code, "is not a marksheet of phantoms" in done.err) == (2, True), done.err
    assert list((tmp_path / "foreign").iterdir()) == [sheet]
    (tmp_path / "samples").mkdir()
    settings = {"settings": {"command": "sample"}, "shards": 1}
    (tmp_path / "samples/run.json").write_text(json.dumps(settings), encoding="utf-8")
    done = program.run(*WORDS, "1", "--overwrite", "-o", "samples", cwd=tmp_path)
    assert (done.code, "samples holds a run of `ccella sample`." in done.err) == (2, True), done.err


def test_a_dry_run_names_the_share(program, tmp_path):
    done = program.run(*WORDS, "5", "--shard", "2/2", "--dry-run", "-o", "out", cwd=tmp_path)
    assert done.out.split() == [f"phantom1s0-0000{index}_1" for index in (2, 3, 4)]
    assert not (tmp_path / "out").exists()

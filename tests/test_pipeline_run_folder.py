"""The run folder: claims, resume, overwrite, shards, damage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_folders import SETTINGS, add, listed, names, open_run

from ccella.imaging.errors import InputError
from ccella.pipeline.errors import RunFolderError
from ccella.pipeline.run_folder import RunFolder
from ccella.pipeline.seeds import Shard
from ccella.zoo.record import Record
from ccella.zoo.runs import read_run


def test_artefact_sidecar_and_manifest_agree(tmp_path):
    with open_run(tmp_path / "out") as run:
        add(run, "x", prompt="é")
    sidecar = json.loads((tmp_path / "out/x/x_a.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "out/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == sidecar
    assert sidecar["path"] == "x/x_a.bin"
    assert sidecar["prompt"] == "é"
    # SHA-256 of b"x x_a.bin", from sha256sum.
    assert sidecar["sha256"] == "be6d4576e42ca1cd4494c1aba285cf2a4f0b5c92efc38e03f907b086f52d7118"


def test_a_folder_with_a_run_needs_a_decision(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "x")
    with pytest.raises(RunFolderError, match="already holds a run") as caught:
        open_run(tmp_path)
    assert "--resume" in caught.value.remedy and "--overwrite" in caught.value.remedy
    with pytest.raises(RunFolderError, match="exclude each other"):
        open_run(tmp_path, resume=True, overwrite=True)


def test_a_run_that_wrote_nothing_binds_nobody(tmp_path):
    with open_run(tmp_path):
        pass
    with open_run(tmp_path, settings={"steps": 9}) as run:
        assert add(run, "x")


def test_a_run_killed_before_its_first_line_is_noticed(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "x")
    (tmp_path / "manifest.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunFolderError, match="already holds a run"):
        open_run(tmp_path)


def test_resume_makes_what_is_missing_and_keeps_input_order(tmp_path):
    with open_run(tmp_path) as run:
        for item in ("p", "r"):
            add(run, item)
    with open_run(tmp_path, resume=True) as run:
        assert [add(run, item) for item in ("p", "q", "r", "s")] == [False, True, False, True]
    assert listed(tmp_path) == names("pqrs")


@pytest.mark.parametrize("damage", ["half line", "no manifest", "garbage line", "double line"])
def test_a_damaged_manifest_is_rebuilt(tmp_path, damage):
    with open_run(tmp_path) as run:
        for item in "pqr":
            add(run, item)
    manifest = tmp_path / "manifest.jsonl"
    whole = manifest.read_bytes()
    lines = whole.splitlines(keepends=True)
    if damage == "half line":
        manifest.write_bytes(whole[:-40])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "garbage line":
        manifest.write_bytes(lines[0] + b"\xff\xfe{]\n" + b"".join(lines[1:]))
    else:
        manifest.write_bytes(lines[0] + whole)
    with open_run(tmp_path, resume=True) as run:
        assert [add(run, item) for item in "pqr"] == [False] * 3
    assert manifest.read_bytes() == whole


def test_a_cut_artefact_or_sidecar_is_made_again(tmp_path):
    with open_run(tmp_path) as run:
        for item in "pqrs":
            add(run, item)
    before = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "p/p_b.bin").write_bytes(b"p")
    (tmp_path / "q/q_a.json").write_text('{"schema": "ccella.record/1", "id"', encoding="utf-8")
    (tmp_path / "r/r_a.bin").unlink()
    with open_run(tmp_path, resume=True) as run:
        assert [add(run, item) for item in "pqrs"] == [True, True, True, False]
    assert (tmp_path / "manifest.jsonl").read_bytes() == before
    assert (tmp_path / "p/p_b.bin").read_bytes() == b"p p_b.bin"


def test_temporary_files_of_dead_runs_go_and_foreign_files_stay(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "p")
    orphans = [tmp_path / ".manifest.jsonl.0123abcd.part", tmp_path / "p/.p_b.bin.89abcdef.part"]
    foreign = [tmp_path / "notes.part", tmp_path / "p/mine.txt", tmp_path / ".hidden.part"]
    for path in (*orphans, *foreign):
        path.write_bytes(b"x")
    with open_run(tmp_path, resume=True) as run:
        add(run, "p")
    assert not any(path.exists() for path in orphans)
    assert all(path.exists() for path in foreign)


def test_resume_refuses_other_settings_and_names_them(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "p")
    with pytest.raises(RunFolderError, match="steps = 3, but this one has 5"):
        open_run(tmp_path, resume=True, settings={**SETTINGS, "steps": 5})
    with pytest.raises(RunFolderError, match='command = "sample", but this one has "decode"'):
        RunFolder(tmp_path, command="decode", settings=SETTINGS, resume=True)
    # Of a table, the value that differs and not the whole: a model is named with all its files.
    with open_run(tmp_path / "m", settings={"model": {"id": "a", "files": {"x": "1", "y": "2"}}}) as run:
        add(run, "p")
    with pytest.raises(RunFolderError, match=r'model\.files\.y = "2", but this one has "3"'):
        open_run(tmp_path / "m", settings={"model": {"id": "a", "files": {"x": "1", "y": "3"}}}, resume=True)
    # A tuple is what JSON calls a list.
    with open_run(tmp_path / "t", settings={"table": (1, 2)}) as run:
        add(run, "p")
    open_run(tmp_path / "t", settings={"table": (1, 2)}, resume=True).__exit__(None, None, None)


def test_resume_refuses_an_item_that_was_made_from_something_else(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "p", prompt="one")
    with (
        open_run(tmp_path, resume=True) as run,
        pytest.raises(RunFolderError, match="prompt 'one', but now it is 'two'"),
    ):
        add(run, "p", prompt="two")


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    with open_run(tmp_path) as run:
        for item in "pq":
            add(run, item)
    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    (tmp_path / "q/mine.txt").write_text("keep", encoding="utf-8")
    (tmp_path / "preview.png").write_bytes(b"old")
    with open_run(tmp_path, overwrite=True, settings={"steps": 9}) as run:
        assert add(run, "z")
    assert listed(tmp_path) == names("z")
    assert not (tmp_path / "p").exists() and not (tmp_path / "preview.png").exists()
    assert [path.name for path in (tmp_path / "q").iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.json").exists()


def test_overwrite_never_leaves_the_folder(tmp_path):
    victim = tmp_path / "victim.bin"
    victim.write_bytes(b"precious")
    out = tmp_path / "out"
    with open_run(out) as run:
        add(run, "p")
    line = {"schema": "ccella.record/1", "kind": "volume", "id": "p", "path": "p/../../victim.bin"}
    (out / "manifest.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (out / "p/victim.json").write_text(json.dumps(line), encoding="utf-8")
    with open_run(out, overwrite=True):
        pass
    assert victim.read_bytes() == b"precious"


def test_two_runs_into_one_folder_are_refused(tmp_path):
    with open_run(tmp_path) as run:
        add(run, "p")
        for options in ({}, {"resume": True}, {"overwrite": True}, {"shard": Shard(1, 2)}):
            with pytest.raises(RunFolderError, match="Another process is writing"):
                open_run(tmp_path, **options)
        assert listed(tmp_path) == names("p")
    open_run(tmp_path, resume=True).__exit__(None, None, None)


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys; from ccella.pipeline.run_folder import RunFolder\n"
        "run = RunFolder(sys.argv[1], command='sample'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    with RunFolder(tmp_path, command="sample", resume=True) as run:
        assert add(run, "p")


def test_unusable_folders_get_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"out cannot be written: a file is in its way") as caught:
        open_run(tmp_path / "file" / "out")
    assert "-o" in caught.value.remedy
    with pytest.raises(RunFolderError, match="cannot be written"):
        open_run(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_gets_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        open_run(tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_run_with_a_sentence(tmp_path):
    def write(path):
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with open_run(tmp_path) as run, pytest.raises(RunFolderError, match="No space left on device"):
        run.write_artefact(Record("p", "volume", run.artefact_path("p", "p_a.bin"), {}), write)
    assert listed(tmp_path) == []


def test_reading_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no manifest.jsonl"):
        list(read_run(tmp_path))
    (tmp_path / "manifest.jsonl").write_text('{"schema": "ccella.record/1", "id": "p"', encoding="utf-8")
    with pytest.raises(InputError, match="line 1 is not JSON") as caught:
        list(read_run(tmp_path))
    assert "--resume" in caught.value.remedy

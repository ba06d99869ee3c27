"""Stages that are killed at every place, terminated, starved or run side by side: --resume ends with the whole run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

REPORTS = ("Lesion left peripheral zone, PIRADS 5", "No suspicious lesion")
STAGES = ("sample", "latents", "encode", "decode", "phantom")


@pytest.fixture(scope="module")
def base(program, tiny_model, tiny_exams, tmp_path_factory) -> Path:
    """A folder with inputs, and each stage's undisturbed output in `whole/<stage>`."""
    base = tmp_path_factory.mktemp("faults")
    lines = [json.dumps({"id": f"p{number}", "prompt": text}) + "\n" for number, text in enumerate(REPORTS)]
    (base / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    shutil.copytree(tiny_model, base / "model")
    shutil.copytree(tiny_exams, base / "exams")
    for stage in STAGES:
        done = program.run(*words(stage), "-o", f"whole/{stage}", cwd=base)
        assert done.code == 0, done.err
    return base


def words(stage: str) -> list[str]:
    """The command line of a stage, without its output."""
    return {
        "sample": ["sample", "--prompt", "prompts.jsonl", "--model", "./model", "--steps", "2"],
        "latents": ["sample", "--prompt", "prompts.jsonl", "--model", "./model", "--steps", "2", "--latents"],
        "encode": ["encode", "exams", "--model", "./model"],
        "decode": ["decode", "whole/latents", "--model", "./model"],
        "phantom": ["phantom", "-n", "2", "--shape", "16,16,8", "--spacing", "6,6,12", "--workers", "1"],
    }[stage]


def resumed(stage: str) -> list[str]:
    return [*words(stage), "--resume"]


def settled(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files under their final names, without the lists that grow while a run goes on."""
    growing = ("manifest.jsonl", "marksheet.csv")
    return {name: data for name, data in files.items() if not name.endswith(".part") and name not in growing}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_place(stage, program, base, read_files, tmp_path):
    """Killed when it is about to name its 1st file, resumed, killed at its 2nd, and so on until it gets through."""
    whole, out, deaths = read_files(base / "whole" / stage), tmp_path / "out", 0
    for place in range(1, 40):
        at = {"rename": place, "do": ("SIGKILL", "cut")[place % 2]}
        done = program.run(*resumed(stage), "-o", str(out), cwd=base, at=at)
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL, done.err
        deaths += 1
        kept = settled(read_files(out))
        assert kept == {name: whole[name] for name in kept}
    assert deaths >= 4
    assert read_files(out) == whole


@pytest.mark.parametrize("stage", ["sample", "encode", "decode"])
def test_terminated_between_two_files(stage, program, base, read_files, tmp_path):
    """A scheduler's SIGTERM is an interruption: nothing half remains, and code and words say so."""
    out = tmp_path / "out"
    done = program.run(*words(stage), "-o", str(out), cwd=base, at={"rename": 3, "do": "SIGTERM"})
    assert done.code == 130
    assert done.err.endswith("error: Stopped by SIGTERM.\n  What is done is kept; --resume goes on where it stopped.\n")
    assert not [name for name in read_files(out) if name.endswith(".part")]
    assert program.run(*resumed(stage), "-o", str(out), cwd=base).code == 0
    assert read_files(out) == read_files(base / "whole" / stage)


def test_a_second_run_is_refused_while_the_first_is_at_work(program, base, read_files, tmp_path):
    out = tmp_path / "out"
    first = program.start(*words("sample"), "-o", str(out), cwd=base, at={"rename": 5, "do": "SIGSTOP"})
    first.wait_until_stopped()
    before = read_files(out)
    for options in ([], ["--resume"], ["--overwrite"], ["--shard", "1/2"]):
        second = program.run(*words("sample"), *options, "-o", str(out), cwd=base)
        assert second.code == 2
        assert f"error: Another process is writing to {out}." in second.err
    other = program.run(*words("encode"), "--resume", "-o", str(out), cwd=base)
    assert other.code == 2
    assert read_files(out) == before
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().code == 0
    assert read_files(out) == read_files(base / "whole/sample")


def test_shards_at_the_same_time_join_and_one_that_dies_is_resumed(program, base, read_files, tmp_path):
    out = tmp_path / "out"
    share = [*words("sample"), "-o", str(out), "--shard", "1/2"]
    first = program.start(*share, cwd=base, at={"rename": 5, "do": "SIGSTOP"})
    first.wait_until_stopped()
    second = program.run(*words("sample"), "-o", str(out), "--shard", "2/2", cwd=base)
    assert second.code == 0, second.err
    twin = program.run(*share, "--resume", cwd=base)
    assert twin.code == 2
    assert "Another process is writing" in twin.err
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    done = program.run(*share, "--resume", cwd=base)
    assert done.code == 0, done.err
    files, whole = read_files(out), read_files(base / "whole/sample")
    assert b"".join(files[f"manifest-{i}-of-2.jsonl"] for i in (1, 2)) == whole["manifest.jsonl"]
    images = {name: data for name, data in files.items() if name.startswith("p")}
    assert images.keys() - whole.keys() == {"preview-1-of-2.png", "preview-2-of-2.png"}
    assert all(images[name] == data for name, data in whole.items() if name.startswith("p") and "/" in name)


@pytest.mark.parametrize("years", [-40, 40])
def test_clocks_that_jump_change_nothing(years, program, base, read_files, tmp_path):
    """Files from the future or a distant past: digests alone tell whether an item is done."""
    out = tmp_path / "out"
    done = program.run(*words("sample"), "-o", str(out), cwd=base, at={"rename": 10, "do": "SIGKILL"})
    assert done.code == -signal.SIGKILL
    for path in [*out.rglob("*"), base / "prompts.jsonl"]:
        moment = path.stat().st_mtime + years * 365.25 * 86400
        os.utime(path, (moment, moment))
    kept = (out / "p0/p0_t2w.nii.gz").stat().st_mtime_ns
    assert program.run(*resumed("sample"), "-o", str(out), cwd=base).code == 0
    assert (out / "p0/p0_t2w.nii.gz").stat().st_mtime_ns == kept
    assert read_files(out) == read_files(base / "whole/sample")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes as Linux lists them")
def test_workers_do_not_outlive_a_killed_command(program, base, tmp_path):
    out = tmp_path / "out"
    arguments = [*words("phantom"), "-n", "400", "--workers", "2"]
    running = program.start(*arguments, "-o", str(out), cwd=base)
    wait_for(lambda: (out / "findings").is_dir())
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="utf-8").split()
    assert len(children) >= 2
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    wait_for(lambda: all(is_dead(child) for child in children))
    assert len(list((out / "findings").glob("*.json"))) < 400


def wait_for(condition) -> None:
    """Waits some minutes at most."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("It did not happen within five minutes.")


def is_dead(pid: str) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def mounted(folder: Path, options: str):
    """A tmpfs on `folder`; the test is skipped where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("This user may not mount a small file system.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("stage", ["sample", "encode", "decode", "phantom"])
def test_a_disk_that_is_full_again_and_again(stage, program, base, read_files, tmp_path):
    """No room at all, then a little more in every round, until the run gets through."""
    whole, refusals = read_files(base / "whole" / stage), 0
    with mounted(tmp_path / "disk", "size=1m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        for attempt in range(40):
            done = program.run(*resumed(stage), "-o", str(disk / "out"), cwd=base)
            if done.code == 0:
                break
            assert (done.code, done.err.count("error: ")) == (2, 1), done.err
            assert "No space left on device." in done.err
            assert "--resume" in done.err
            refusals += 1
            files = read_files(disk / "out")
            assert not [name for name in files if name.endswith(".part")]
            assert settled(files) == {name: whole[name] for name in settled(files)}
            os.truncate(filler, max(0, filler.stat().st_size - (8192 << attempt)))
        assert done.code == 0
        assert refusals >= 3
        assert read_files(disk / "out") == whole


@pytest.mark.parametrize("limit", [700, 5000])
def test_files_that_may_not_grow(limit, program, base, read_files, tmp_path):
    """Where no small disk can be mounted: the kernel refuses to make a file larger than some bytes."""
    out = tmp_path / "out"
    done = program.run(*words("sample"), "-o", str(out), cwd=base, file_bytes=limit)
    assert (done.code, done.err.count("error: ")) == (2, 1), done.err
    assert "cannot be written: File too large." in done.err
    assert not [name for name in read_files(out) if name.endswith(".part")]
    done = program.run(*resumed("sample"), "-o", str(out), cwd=base)
    assert done.code == 0, done.err
    assert read_files(out) == read_files(base / "whole/sample")


@pytest.mark.parametrize("stage", ["sample", "phantom"])
def test_an_output_folder_that_nobody_may_write(stage, program, base, tmp_path):
    with mounted(tmp_path / "disk", "ro") as disk:
        done = program.run(*words(stage), "-o", str(disk / "out"), cwd=base)
        assert (done.code, done.err.count("error: ")) == (2, 1), done.err
        assert "Read-only file system." in done.err
        assert str(disk / "out") in done.err
        assert list(disk.iterdir()) == []


def test_caches_that_cannot_be_written_are_not_needed(base, read_files, tmp_path):
    """A user without a home, in a folder of others: everything that a run writes is below its output folder."""
    nowhere = dict.fromkeys(("HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), "/dev/null/x")
    command = [sys.executable, "-B", "-m", "ccella.cli.main", *words("sample"), "-q", "-o", str(tmp_path / "out")]
    before = sorted(path for path in base.rglob("*") if "whole" not in path.parts)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **nowhere}
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path for path in base.rglob("*") if "whole" not in path.parts) == before
    assert read_files(tmp_path / "out") == read_files(base / "whole/sample")


def test_an_export_killed_again_and_again_leaves_a_whole_model_folder(program, base, read_files, tmp_path):
    """Killed while it copies the model and when it is about to name the graph; the same command completes it."""
    arguments = ["export", "./model", "--to", "onnx", "--part", "adapter", "--device", "cpu", "-q", "-o"]
    done = program.run(*arguments, "whole/export", cwd=base)
    assert done.code == 0, done.err
    out = tmp_path / "out"
    for place, action in ((2, "cut"), (5, "SIGKILL"), (7, "cut"), (8, "cut")):
        done = program.run(*arguments, str(out), cwd=base, at={"rename": place, "do": action})
        assert done.code == -signal.SIGKILL, done.err
    assert list((out / "onnx").glob(".export-*/*.onnx"))
    done = program.run(*arguments, str(out), cwd=base)
    assert done.code == 0, done.err
    assert read_files(out) == read_files(base / "whole/export")

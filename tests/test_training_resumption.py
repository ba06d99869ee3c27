"""Stopping and going on: the same bits after a kill or a signal, refusals of another run, a disk that fills."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.small_task import SmallTask, assert_same, final_state, rows, run, small_options, spawn

from ccella.imaging.errors import InputError
from ccella.training.checkpoints import list_checkpoints
from ccella.training.interruption import TrainingInterrupted
from ccella.training.loop import run_folder, train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


def test_a_killed_run_resumes_to_the_same_bits(unbroken: Path, tmp_path: Path) -> None:
    process = spawn([tmp_path, 8])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    assert [checkpoint.step for checkpoint in list_checkpoints(run_folder(tmp_path, "small") / "checkpoints")] == [4, 6]
    run(tmp_path, resume=True)
    assert_same(final_state(tmp_path), final_state(unbroken))
    assert rows(tmp_path) == rows(unbroken)
    assert_same(load_file(tmp_path / "exported-12.safetensors"), load_file(unbroken / "exported-12.safetensors"))


def test_a_run_with_dropout_resumes_to_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "whole", dropout=0.3)

    def stop(line: str) -> None:
        if line.startswith("step 5/"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "parts", dropout=0.3, log=stop)
    torch.manual_seed(99)
    run(tmp_path / "parts", dropout=0.3, resume=True)
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def test_sigterm_saves_and_says_how_to_go_on(unbroken: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop(line: str) -> None:
        if line.startswith("step 5/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="SIGTERM after step 5") as caught:
        run(tmp_path, log=stop)
    assert "--resume" in caught.value.remedy
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [c.step for c in list_checkpoints(run_folder(tmp_path, "small") / "checkpoints")] == [4, 5]
    run(tmp_path, resume=True)
    assert_same(load_file(tmp_path / "exported-12.safetensors"), load_file(unbroken / "exported-12.safetensors"))


def test_two_runs_never_share_a_folder(unbroken: Path, tmp_path: Path) -> None:
    refusals: list[str] = []

    def intrude(line: str) -> None:
        if line.startswith("step 2/"):
            process = spawn([tmp_path, 8])
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 1
            refusals.append(output)

    run(tmp_path, log=intrude)
    assert f"Another process is training in {run_folder(tmp_path, 'small')}." in refusals[0]
    assert_same(final_state(tmp_path), final_state(unbroken))
    assert rows(tmp_path) == rows(unbroken)


def test_the_time_limit_saves_and_stops(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="time limit after step 1"):
        run(tmp_path, stop_after_min=1e-9)
    assert run(tmp_path, resume=True).step == 12


def test_resuming_something_else_is_refused(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    run(out, steps=3)
    with pytest.raises(InputError, match="already holds a run of 3 steps"):
        run(out, steps=3)
    with pytest.raises(InputError, match=r"learning_rate = 0\.01, this one 0\.02") as caught:
        run(out, steps=3, resume=True, learning_rate=0.02)
    assert "config.toml" in caught.value.remedy
    with pytest.raises(InputError, match="steps = 3, this one 12"):
        run(out, resume=True)
    wanted = r"another data: 1 added \(b\), 1 removed \(a\), 10 changed \(item0 \(a -> b\), .* and 5 more\)"
    with pytest.raises(InputError, match=wanted):
        train(SmallTask(digest="b"), small_options(steps=3), out, stage="small", resume=True)
    assert run(out, steps=3, resume=True, log_every=2).step == 3


def test_a_run_of_constant_rate_can_be_made_longer(tmp_path: Path) -> None:
    run(tmp_path / "parts", steps=6, lr_schedule="constant")
    run(tmp_path / "parts", steps=12, lr_schedule="constant", resume=True)
    run(tmp_path / "whole", steps=12, lr_schedule="constant")
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def test_what_is_allowed_to_differ_is_kept_in_mind(tmp_path: Path) -> None:
    run(tmp_path, steps=3)
    changed = small_options(steps=5, learning_rate=0.02)
    lines: list[str] = []
    progress = train(SmallTask(digest="b"), changed, tmp_path, stage="small", resume=True, log=lines.append,
                     allow=("options", "data"))  # fmt: skip
    assert [change.split(":")[0] for change in progress.changes] == ["step 3"] * 2
    assert "learning_rate = 0.01, this one 0.02" in progress.changes[0]
    assert len([line for line in lines if line.startswith("Changed since")]) == 2
    again = train(SmallTask(digest="b"), changed, tmp_path, stage="small", resume=True)
    assert again.changes == progress.changes


def test_a_disk_that_fills_during_a_save_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("This user may not mount a small file system.")

    def fill(line: str) -> None:
        if line.startswith("step 4/"):
            with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(512))

    try:
        with pytest.raises(OSError, match="No space left") as caught:
            run(disk / "run", log=fill, validate_every=0)
        assert caught.value.errno == errno.ENOSPC
        folder = run_folder(disk / "run", "small")
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000003"]
        (disk / "filler").unlink()
        assert run(disk / "run", resume=True, validate_every=0).step == 12
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_fp16_saves_its_loss_scale(tmp_path: Path) -> None:
    run(tmp_path, precision="fp16", steps=4)
    scales = [row["loss_scale"] for row in rows(tmp_path) if "loss_scale" in row]
    checkpoint = list_checkpoints(run_folder(tmp_path, "small") / "checkpoints")[-1]
    assert checkpoint.state()["loss_scale"]["scale"] == scales[-1]

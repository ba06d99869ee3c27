"""What a training says it would do, and how it replaces an earlier run."""

import io
import json
from pathlib import Path

import pytest

from ccella.cli.main import run
from ccella.training.checkpoints import list_checkpoints


def command(exams: Path | str, model: Path, out: Path, *more: str) -> list[str]:
    words = ["train", "autoencoder", str(exams), "--model", str(model), "-o", str(out), "--device", "cpu"]
    return [*words, "--batch-size", "2", "--steps", "1", *more]


def test_a_dry_run_tells_and_writes_nothing(
    tiny_model: Path, tiny_exams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(command(tiny_exams, tiny_model, out, "--set", "learning_rate=0.01", "--dry-run", "--json")) == 0
    shown = capsys.readouterr()
    plan = json.loads(shown.out)
    assert plan["part"] == "autoencoder"
    assert plan["items"] == "3 exams"
    assert plan["options"]["learning_rate"] == 0.01
    assert plan["options"]["steps"] == 1
    assert plan["hardware"] in shown.err
    assert run(command(tiny_exams, tiny_model, out, "--dry-run")) == 0
    assert "batch_size\t2" in capsys.readouterr().out.splitlines()
    assert not out.exists()


def test_exams_come_from_another_command_too(
    tiny_model: Path, tiny_exams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = [
        {"id": path.parent.name, "channel": path.name.split("_")[-1].split(".")[0], "path": str(path)}
        for path in sorted(tiny_exams.glob("*/*.nii.gz"))
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in rows)))
    assert run(command("-", tiny_model, tmp_path / "out", "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["items"] == "3 exams"


def test_latents_do_not_come_through_a_pipe(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "denoiser", "-", "--model", str(tiny_model), "-o", str(tmp_path / "out")]) == 2
    assert "output folder of `ccella encode`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_replaced_where_it_is_asked_for(
    tiny_model: Path, tiny_exams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(command(tiny_exams, tiny_model, out, "-q")) == 0
    first = (out / "autoencoder.safetensors").read_bytes()
    assert run(command(tiny_exams, tiny_model, out, "--seed", "5")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(command(tiny_exams, tiny_model, out, "--overwrite", "--resume")) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert (out / "autoencoder.safetensors").read_bytes() == first
    assert run(command(tiny_exams, tiny_model, out, "--seed", "5", "--overwrite", "-q")) == 0
    assert (out / "autoencoder.safetensors").read_bytes() != first
    (checkpoint,) = list_checkpoints(out / "training/autoencoder/checkpoints")
    assert checkpoint.state()["options"]["seed"] == 5

"""`ccella train denoiser` as users start it: by a launcher, and stopped from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.small_denoiser import SHAPE, options, small_card, write_latents

from ccella.training.checkpoints import latest_checkpoint
from ccella.training.denoiser import train_denoiser
from ccella.zoo.card import Card, read_card
from ccella.zoo.folder import write_card


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return small_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents"), SHAPE)


def command(launcher: list[str], model: Path, folder: Path, out: Path, **changes: Any) -> "subprocess.Popen[str]":
    """`ccella train denoiser` in a process of its own, with the options of these tests."""
    named = {"steps": 4, "batch_size": 4, "device": "cpu"}
    named |= {name: changes.pop(name) for name in list(changes) if name in named}
    chosen = {"validation_fraction": 0.3, "log_every": 1, "learning_rate": 3e-3, "checkpoint_every": 2, **changes}
    words = [
        *launcher,
        "-m",
        "ccella.cli.main",
        "train",
        "denoiser",
        str(folder),
        "--model",
        str(model),
        "-o",
        str(out),
    ]
    words += [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def template(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("template")
    write_card(model / "card.toml", {**card.document, "training": {}})
    return model


def test_accelerate_launches_the_same_run(template: Path, folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
                "--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no"]  # fmt: skip
    process = command(launcher, template, folder, tmp_path / "launched")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.startswith("denoiser")
    train_denoiser(read_card(template / "card.toml"), folder, tmp_path / "plain", options())
    # The launcher's bf16 is not ours: --precision alone decides.
    one, other = (load_file(tmp_path / name / "denoiser.safetensors") for name in ("launched", "plain"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_terminated_command_saves_and_ends_with_130(template: Path, folder: Path, tmp_path: Path) -> None:
    process = command([sys.executable], template, folder, tmp_path / "out", steps=100000)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 130, lines
    checkpoint = latest_checkpoint(tmp_path / "out/training/denoiser/checkpoints")
    assert checkpoint is not None
    assert f"stopped by SIGTERM after step {checkpoint.step}; the state is saved." in "".join(lines[-2:])
    assert "--resume" in lines[-1]

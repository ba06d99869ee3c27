"""Checkpoints on disk: whole or absent, bounded in number, exact."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ccella.imaging.errors import InputError
from ccella.training.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def save(folder: Path, step: int, keep: int = 2) -> None:
    value = torch.arange(6.0).reshape(2, 3) + step
    save_checkpoint(folder, step, {"model": {"w": value, "turned": value.T}, "empty": {}}, {"step": step}, keep=keep)


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    save(tmp_path, 4)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert checkpoint.state() == {"step": 4}
    tensors = checkpoint.tensors("model")
    assert torch.equal(tensors["w"], torch.arange(6.0).reshape(2, 3) + 4)
    assert torch.equal(tensors["turned"], tensors["w"].T)
    assert checkpoint.tensors("empty") == {}
    with pytest.raises(InputError, match=r"lacks other\.safetensors"):
        checkpoint.tensors("other")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 100):
        save(tmp_path, step, keep=3)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 30, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000030", "step-00000100"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 5)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [5]


def test_half_written_folders_do_not_count_and_are_swept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    save(tmp_path, 3)
    killed = tmp_path / ".step-00000009.abcd1234.part"
    killed.mkdir()
    (killed / "state.json").write_text("{}", encoding="utf-8")
    (tmp_path / "step-00000010").mkdir()
    (tmp_path / "notes").mkdir()
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.step == 3
    save(tmp_path, 6)
    assert not killed.exists()


def test_a_failed_save_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 4, {"model": {"w": torch.ones(1)}}, {"loss": float("nan")}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_an_optimizer_goes_on_exactly() -> None:
    def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    first = torch.optim.AdamW(one.parameters(), lr=0.1)
    step(one, first, 1)
    names = {id(parameter): name for name, parameter in one.named_parameters()}
    tensors = optimizer_tensors(first, names)
    assert set(tensors) == {f"{name}/{key}" for name in ("weight", "bias") for key in ("step", "exp_avg", "exp_avg_sq")}
    other.load_state_dict(one.state_dict())
    second = torch.optim.AdamW(other.parameters(), lr=0.1)
    restore_optimizer(second, dict(other.named_parameters()), {name: value.clone() for name, value in tensors.items()})
    step(one, first, 2)
    step(other, second, 2)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    with pytest.raises(InputError, match="'gone'"):
        restore_optimizer(second, dict(other.named_parameters()), {"gone/step": torch.ones(())})

"""Several processes train as one: the same weights, one voice, one stop."""

from pathlib import Path

import pytest
import torch
from support.small_task import SmallTask, final_state, rows, run, run_two, small_options

from ccella.imaging.errors import InputError
from ccella.training.config import LoopTraining, resolve_options
from ccella.training.loop import train
from ccella.training.processes import process_state
from ccella.training.randomness import step_indices


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


@pytest.mark.parametrize("sharded", ["false", "true"], ids=["ddp", "fsdp"])
def test_two_processes_do_not_change_the_result(unbroken: Path, tmp_path: Path, sharded: str) -> None:
    results = run_two([tmp_path], ACCELERATE_USE_FSDP=sharded)
    assert [code for code, _ in results] == [0, 0], results
    for name, value in final_state(tmp_path).items():
        torch.testing.assert_close(value, final_state(unbroken)[name], rtol=1e-4, atol=1e-5)
    # Losses are means over both processes, and only the first process writes.
    losses = [[row["loss"] for row in rows(out) if "loss" in row] for out in (tmp_path, unbroken)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    words = "2 processes with sharded weights" if sharded == "true" else "2 processes, this one on 1 process"
    with pytest.raises(InputError, match=words) as caught:
        run(tmp_path, resume=True)
    assert "--allow-world-size" in caught.value.remedy
    task, lines = SmallTask(), []
    train(task, small_options(), tmp_path, stage="small", resume=True, log=lines.append, allow=("world_size",))
    assert any("Changed since, world_size" in line for line in lines)


def test_all_processes_stop_at_a_loss_that_is_no_number(tmp_path: Path) -> None:
    results = run_two([tmp_path, "poison"])
    step = next(step for step in range(3) if 3 in step_indices(0, step, 4, 10))
    # The items of the poisoned half of the batch, not of the whole one.
    indices = step_indices(0, step, 4, 10)
    half = indices[:2] if 3 in indices[:2] else indices[2:]
    wanted = f"loss is nan at step {step + 1}; the batch holds: {', '.join(f'item{index}' for index in half)}."
    for code, output in results:
        assert code == 1
        assert wanted in output


@pytest.mark.parametrize(("device", "words"), [("cuda:7", "cuda:7 was asked for"), ("mps", "mps was asked for")])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, words: str) -> None:
    there = torch.backends.mps.is_available() if device == "mps" else torch.cuda.device_count() > 7
    if there:
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match=words):
        run(tmp_path, device=device)


def test_each_training_of_a_process_gets_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_state(small_options(device="cpu")).device == torch.device("cpu")
    # This machine may have no GPU: what would be asked of one is looked at.
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert process_state(small_options(device="cuda:1")).device == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    assert process_state(small_options(device="cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cpu:0"])
def test_words_that_are_no_device(device: str) -> None:
    with pytest.raises(InputError, match="Training option device"):
        resolve_options(LoopTraining, "small", {}, {"device": device})

"""The loop: invariance to micro-batches, divergence, export, the best checkpoint, curves."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.small_task import SmallTask, assert_same, final_state, rows, run, small_options

from ccella.imaging.errors import InputError
from ccella.training.checkpoints import list_checkpoints
from ccella.training.engine import Engine, TrainingDivergedError
from ccella.training.feeding import Feeder
from ccella.training.loop import run_folder, train
from ccella.training.randomness import step_indices


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


def test_micro_batches_do_not_change_the_result(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, accumulate=2)
    for name, value in final_state(tmp_path).items():
        torch.testing.assert_close(value, final_state(unbroken)[name], rtol=1e-4, atol=1e-5)


def test_training_lowers_the_validation_loss_and_exports_the_average(unbroken: Path) -> None:
    validation = [row["validation/loss"] for row in rows(unbroken) if "validation/loss" in row]
    assert validation[-1] < validation[0]
    exported, state = load_file(unbroken / "exported-12.safetensors"), final_state(unbroken)
    for name, value in exported.items():
        assert torch.equal(value, state[f"average/{name}"])
        assert not torch.equal(value, state[f"model/{name}"])


def test_the_model_folder_is_written_on_request(tmp_path: Path) -> None:
    run(tmp_path, export_every=5)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "exported-10.safetensors", "exported-12.safetensors", "exported-5.safetensors"]  # fmt: skip


def test_a_loss_that_is_no_number_names_step_and_items(tmp_path: Path) -> None:
    task = SmallTask(poison=3)
    order = [step_indices(0, step, 4, 10) for step in range(3)]
    first = next(step for step, indices in enumerate(order) if 3 in indices)
    with pytest.raises(TrainingDivergedError, match=rf"loss is nan at step {first + 1}; .*item3"):
        train(task, small_options(), tmp_path, stage="small")
    assert all(bool(torch.isfinite(value).all()) for value in task.objective.state_dict().values())


def test_recomputed_activations_change_nothing(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, recompute_activations=True)
    assert_same(load_file(tmp_path / "exported-12.safetensors"), load_file(unbroken / "exported-12.safetensors"))


def test_batches_prepared_ahead_are_the_same(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccella.training.engine.Feeder", lambda prepare, ahead: Feeder(prepare, ahead=True))
    run(tmp_path)
    assert_same(final_state(tmp_path), final_state(unbroken))


def test_the_best_checkpoint_is_kept_and_exported(tmp_path: Path) -> None:
    class Spoiled(SmallTask):
        """Its validation is best at the second visit."""

        visits = 0

        def validate(self, device: torch.device) -> dict[str, float]:
            self.visits += 1
            return {"loss": [3.0, 1.0, 2.0, 4.0, 5.0, 6.0][self.visits - 1]}

    options = small_options(validate_every=2, checkpoint_every=1, keep_checkpoints=2, export_weights="best")
    progress = train(Spoiled(), options, tmp_path, stage="small")
    checkpoints = list_checkpoints(run_folder(tmp_path, "small") / "checkpoints")
    assert [checkpoint.step for checkpoint in checkpoints] == [4, 11, 12]
    assert (progress.step, checkpoints[-1].state()["best"]["step"]) == (12, 4)
    assert_same(load_file(tmp_path / "exported-4.safetensors"), checkpoints[0].tensors("average"))


def test_a_length_in_epochs_becomes_steps(tmp_path: Path) -> None:
    assert run(tmp_path, epochs=1.5).step == 4  # 15 items in batches of 4
    assert list_checkpoints(run_folder(tmp_path, "small") / "checkpoints")[-1].state()["options"]["epochs"] == 0


def test_curves_for_tensorboard_hold_what_metrics_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(run_folder(tmp_path, "small") / "tensorboard"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("loss")]
    assert curve == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows(tmp_path) if "loss" in row]
    assert [event.step for event in events.Scalars("validation/loss")] == [4, 8, 12]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match="4 items cannot be shared by 1 processes in 3"):
        Engine(SmallTask(), small_options(accumulate=3))


def test_the_second_precision_in_one_process_is_honoured(tmp_path: Path) -> None:
    run(tmp_path / "fp32", steps=2)
    run(tmp_path / "bf16", steps=2, precision="bf16")
    one, other = rows(tmp_path / "fp32")[0]["loss"], rows(tmp_path / "bf16")[0]["loss"]
    assert one != other
    assert one == pytest.approx(other, rel=0.02)

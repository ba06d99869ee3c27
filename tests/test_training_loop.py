"""The loop: exact resume after a kill, invariance to micro-batches and processes, divergence, interruption.

Run as a program, it trains the small task into a folder: `python test_training_loop.py FOLDER [KILL_AT|poison]`.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ccella.imaging.errors import InputError
from ccella.training.checkpoints import list_checkpoints
from ccella.training.config import LoopTraining
from ccella.training.engine import Engine, TrainingDivergedError, use_channels_last
from ccella.training.feeding import Feeder
from ccella.training.interruption import TrainingInterrupted
from ccella.training.loop import run_folder, train
from ccella.training.randomness import item_generator, scoped_seed, step_indices
from ccella.training.task import Batch, Progress

OPTIONS = {"steps": 12, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1, "checkpoint_every": 3,
           "validate_every": 4, "warmup_steps": 2, "device": "cpu", "seed": 0}  # fmt: skip


class Objective(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        error = (self.network(batch["x"] + 0.1 * batch["eps"]) - batch["x"].flip(2)).square().mean()
        return error, {"error": error}

    def sharding_units(self) -> Sequence[nn.Module]:
        return [self.network[0], self.network]

    def checkpointing_units(self) -> Sequence[nn.Module]:
        return list(self.network)


class SmallTask:
    """Learns to flip noise images of 4 x 4 pixels."""

    def __init__(self, *, poison: int | None = None, digest: str = "a", dropout: float = 0.0) -> None:
        with scoped_seed(5):
            self.objective: nn.Module = Objective(dropout)
            self.images = torch.randn(10, 1, 4, 4)
        if poison is not None:
            self.images[poison] = torch.nan
        self.ids: Sequence[str] = [f"item{number}" for number in range(10)]
        self.identity: Mapping[str, str] = {"data": digest}
        self.details: Mapping[str, Mapping[str, str]] = {"data": dict.fromkeys((*self.ids, digest), digest)}
        self.scale = 1.5

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        return {"x": self.images[index], "eps": torch.randn(1, 4, 4, generator=generator)}

    def collate(self, items: Sequence[Batch]) -> Batch:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def validate(self, device: torch.device) -> dict[str, float]:
        batch = self.collate([self.draw(index, item_generator(0, 1, 0, index)) for index in range(4)])
        return {"loss": float(self.objective(batch, 0)[0])}

    def constants(self) -> dict[str, float]:
        return {"scale": self.scale}

    def restore(self, constants: Mapping[str, float]) -> None:
        self.scale = constants["scale"]

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(state), folder / f"exported-{progress.step}.safetensors")


def small_options(**changes: object) -> LoopTraining:
    return LoopTraining(**(OPTIONS | changes))  # type: ignore[arg-type]


def run(
    out: Path, *, resume: bool = False, log: Callable[[str], None] = lambda line: None, **changes: object
) -> Progress:
    dropout = float(str(changes.pop("dropout", 0.0)))
    return train(SmallTask(dropout=dropout), small_options(**changes), out, stage="small", resume=resume, log=log)


def final_state(out: Path) -> dict[str, Tensor]:
    checkpoint = list_checkpoints(run_folder(out, "small") / "checkpoints")[-1]
    groups = ("model", "average", "optimizer")
    return {f"{group}/{name}": value for group in groups for name, value in checkpoint.tensors(group).items()}


def rows(out: Path) -> list[dict[str, float]]:
    lines = (run_folder(out, "small") / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "steps_per_s"} for line in lines]


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def spawn(arguments: Sequence[object], **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


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


def test_micro_batches_do_not_change_the_result(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, accumulate=2)
    for name, value in final_state(tmp_path).items():
        torch.testing.assert_close(value, final_state(unbroken)[name], rtol=1e-4, atol=1e-5)


def run_two(arguments: Sequence[object], **environment: str) -> list[tuple[int, str]]:
    """Exit code and output of two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    common |= environment
    workers = [spawn(arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    return [(worker.returncode, output) for worker, output in zip(workers, outputs, strict=True)]


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


def test_the_time_limit_saves_and_stops(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="time limit after step 1"):
        run(tmp_path, stop_after_min=1e-9)
    assert run(tmp_path, resume=True).step == 12


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


def test_a_loss_that_is_no_number_names_step_and_items(tmp_path: Path) -> None:
    task = SmallTask(poison=3)
    order = [step_indices(0, step, 4, 10) for step in range(3)]
    first = next(step for step, indices in enumerate(order) if 3 in indices)
    with pytest.raises(TrainingDivergedError, match=rf"loss is nan at step {first + 1}; .*item3"):
        train(task, small_options(), tmp_path, stage="small")
    assert all(bool(torch.isfinite(value).all()) for value in task.objective.state_dict().values())


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


def test_channels_last_keeps_values() -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    use_channels_last(module)
    assert_same(module.state_dict(), before)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert module[1].weight.is_contiguous(memory_format=torch.channels_last)


def main(out: Path, word: str = "") -> None:
    def kill(line: str) -> None:
        if line.startswith(f"step {word}/"):
            os.kill(os.getpid(), signal.SIGKILL)

    train(SmallTask(poison=3 if word == "poison" else None), small_options(), out, stage="small", log=kill)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

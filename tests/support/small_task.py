"""A task that trains in a second, in this process or in others.

Run as a program, it trains into a folder: `python small_task.py FOLDER [KILL_AT|poison]`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ccella.training.checkpoints import list_checkpoints
from ccella.training.config import LoopTraining
from ccella.training.loop import run_folder, train
from ccella.training.randomness import item_generator, scoped_seed
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


def main(out: Path, word: str = "") -> None:
    def kill(line: str) -> None:
        if line.startswith(f"step {word}/"):
            os.kill(os.getpid(), signal.SIGKILL)

    train(SmallTask(poison=3 if word == "poison" else None), small_options(), out, stage="small", log=kill)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

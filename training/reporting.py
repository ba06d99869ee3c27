"""What a run tells: lines for people, metrics.jsonl for programs, the device in words."""

import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..imaging.atomic import write_text


class Means:
    """Running means of the scalars since the last reading."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, float]) -> None:
        """Takes one step's scalars in."""
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, and a fresh start."""
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def keep_finite(scalars: Mapping[str, float]) -> dict[str, float]:
    """Only the numbers that JSON and TOML can hold."""
    return {name: value for name, value in scalars.items() if math.isfinite(value)}


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one line to a metrics file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        # Not forced to the disk: a resumed run cuts and rewrites the file's end anyway, and waiting would cost steps.
        stream.write(json.dumps(dict(row), allow_nan=False) + "\n")


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a half-written last one: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def describe_line(step: int, steps: int, means: Mapping[str, float], rate_hz: float) -> str:
    """One line of progress: step, loss, the other figures, learning rate, steps per second, time left."""
    others = [f"{name} {value:.4g}" for name, value in means.items() if name not in ("loss", "learning_rate")]
    left = (steps - step) / rate_hz if rate_hz > 0 else math.inf
    words = [f"step {step}/{steps}", f"loss {means['loss']:.5f}", *others, f"lr {means['learning_rate']:.2e}"]
    return "  ".join([*words, f"{rate_hz:.2f} steps/s", f"{describe_time(left)} left"])


def describe_time(seconds: float) -> str:
    """A duration in its two largest units."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def describe_device(device: torch.device, processes: int = 1) -> str:
    """The device in words, and how many processes have one, for cards and logs."""
    if processes > 1:
        return f"{processes} x {describe_device(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    count = torch.get_num_threads()
    return f"{model}, {count} thread{'s' if count > 1 else ''}"

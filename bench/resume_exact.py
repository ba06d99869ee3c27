"""A denoiser's training killed with -9 at random steps and resumed ends with the bits of an unbroken one.

    python bench/resume_exact.py

Both runs are `ccella train denoiser` as a user starts it, on random latents and a small network.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from machine import report
from safetensors.torch import load_file
from small_latents import write_latents, write_template


def start(base: Path, out: Path, steps: int) -> "subprocess.Popen[str]":
    settings = ["checkpoint_every=4", "log_every=1", "validate_every=10", "learning_rate=1e-3"]
    command = [sys.executable, "-m", "ccella.cli.main", "train", "denoiser", str(base / "latents"), "-o", str(out),
               "--model", str(base / "template"), "--steps", str(steps), "--batch-size", "4", "--device", "cpu",
               "--resume", *[word for setting in settings for word in ("--set", setting)]]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run(base: Path, out: Path, steps: int, kill_at: int | None) -> None:
    """Runs to the end, or until the line of step `kill_at` is read."""
    process = start(base, out, steps)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if kill_at is not None and line.startswith(f"step {kill_at}/") and "validation" not in line:
            process.send_signal(signal.SIGKILL)
    code = process.wait()
    if code != (0 if kill_at is None else -signal.SIGKILL):
        raise SystemExit("".join(lines) + f"Training ended with exit code {code}.")


def final_tensors(out: Path) -> dict[str, torch.Tensor]:
    """The exported weights and everything of the last checkpoint, by file and name."""
    last = max((out / "training/denoiser/checkpoints").glob("step-*"))
    files = [out / "denoiser.safetensors", *sorted(last.glob("*.safetensors"))]
    return {f"{path.stem}/{name}": value for path in files for name, value in load_file(path).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the steps at which the run is killed")
    options = parser.parse_args()
    kills = sorted(random.Random(options.seed).sample(range(2, options.steps), options.kills))
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_latents(base / "latents", write_template(base / "template", (8, 8, 4)), 20, tokens=24)
        run(base, base / "whole", options.steps, None)
        for step in kills:
            run(base, base / "killed", options.steps, step)
        run(base, base / "killed", options.steps, None)
        whole, killed = final_tensors(base / "whole"), final_tensors(base / "killed")
    differ = [name for name, value in whole.items() if not torch.equal(value, killed[name])]
    equal = whole.keys() == killed.keys() and not differ
    rows = [
        ("killed with -9 after steps", ", ".join(map(str, kills)) + f" of {options.steps}"),
        ("weights, their average and the optimizer", "the same bits" if equal else f"{len(differ)} tensors differ"),
        ("tensors compared", len(whole)),
    ]
    report("resume_exact", rows)
    if not equal:
        raise SystemExit(f"These differ: {', '.join(differ[:10])}")


if __name__ == "__main__":
    main()

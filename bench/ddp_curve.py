"""Two processes with half the batch each follow the loss curve of one process: DDP, and FSDP where --fsdp is given.

    python bench/ddp_curve.py [--fsdp]

All runs are `ccella train denoiser`; the processes speak gloo on CPUs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import report
from small_latents import write_latents, write_template


def train(base: Path, name: str, steps: int, processes: int, sharded: bool = False) -> list[float]:
    """The loss of every step of one run."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    if processes == 1:
        launcher = [sys.executable]
    settings = ["log_every=1", "validate_every=0", "checkpoint_every=0", "learning_rate=1e-3"]
    command = [*launcher, "-m", "ccella.cli.main", "train", "denoiser", str(base / "latents"), "-o", str(base / name),
               "--model", str(base / "template"), "--steps", str(steps), "--batch-size", "4", "--device", "cpu",
               *[word for setting in settings for word in ("--set", setting)]]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_FSDP": "true" if sharded else "false"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{name} ended with exit code {done.returncode}.")
    lines = (base / name / "training/denoiser/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--fsdp", action="store_true", help="also with sharded weights")
    options = parser.parse_args()
    rows: list[tuple[str, object]] = []
    curves = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_latents(base / "latents", write_template(base / "template", (8, 8, 4)), 20, tokens=24)
        curves["one process"] = one = train(base, "one", options.steps, 1)
        curves["DDP"] = train(base, "ddp", options.steps, 2)
        if options.fsdp:
            curves["FSDP"] = train(base, "fsdp", options.steps, 2, sharded=True)
    rows.append(("steps", len(one)))
    rows.append(("loss of one process, first and last step", f"{one[0]:.5f}, {one[-1]:.5f}"))
    for name in list(curves)[1:]:
        worst = max(abs(a - b) / abs(a) for a, b in zip(one, curves[name], strict=True))
        rows.append((f"largest relative difference, two processes with {name}", f"{worst:.1e}"))
    report("ddp_curve", rows, details=curves)


if __name__ == "__main__":
    main()

"""`ccella evaluate images` as a user runs it: seconds and peak memory at growing numbers of phantoms.

Phantoms of two seeds stand for the real and the synthetic set. With more than one size the slope tells whether the time
grows linearly.

    python bench/evaluate_images.py --sizes 100 400
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from machine import report

SEEDS = {"real": 41_000, "synthetic": 42_000}


def make_phantoms(folder: Path, count: int, seed: int) -> Path:
    """Phantoms of a seed, kept for the next run."""
    program = [sys.executable, "-m", "ccella.cli.main"]
    subprocess.run([*program, "phantom", "-n", str(count), "--seed", str(seed), "-o", str(folder), "-q"],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return folder


def measure(real: Path, synthetic: Path, count: int) -> tuple[float, float, float]:
    """Wall and processor seconds and peak resident GiB of one evaluation with its report."""
    page = real.parent / f"report-{count}.html"
    ccella = Path(sys.executable).with_name("ccella")
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(ccella), "evaluate", "images", "--real", str(real), "--synthetic", str(synthetic), "--report", str(page)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ccella evaluate images ended with exit code {process.returncode}.")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100])
    parser.add_argument("--work", type=Path, default=Path("runs/evaluate-images"))
    options = parser.parse_args()
    rows: list[tuple[str, object]] = []
    seconds: dict[int, float] = {}
    processor: dict[int, float] = {}
    for count in options.sizes:
        # A folder per size: the sets are read whole.
        folders = {name: make_phantoms(options.work / f"{name}-{count}", count, seed) for name, seed in SEEDS.items()}
        seconds[count], processor[count], peak = measure(folders["real"], folders["synthetic"], count)
        text = f"{seconds[count]:.1f} s ({processor[count]:.1f} s of processor), peak {peak:.2f} GiB"
        rows.append((f"{count} + {count} phantoms, 3 sequences, with report", text))
    if len(seconds) > 1:
        few, many = min(seconds), max(seconds)
        rows.append(
            (f"processor time per exam, {many} against {few}", (processor[many] / many) / (processor[few] / few))
        )
    report("evaluate_images", rows)


if __name__ == "__main__":
    main()

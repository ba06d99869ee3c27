"""Whole commands as a user runs them: seconds and peak memory of each process, several runs, on this machine.

python bench/command_time.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import report

ROOT = Path(__file__).resolve().parents[1]


def time_command(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident GiB of one run of `ccella ARGUMENTS`."""
    ccella = Path(sys.executable).with_name("ccella")
    started = time.perf_counter()
    process = subprocess.Popen([str(ccella), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    # `ccella doctor MODEL` ends with 1 where the model does not fit, which is an answer too.
    if process.returncode > (arguments[0] == "doctor"):
        raise SystemExit(f"ccella {' '.join(arguments)} ended with exit code {process.returncode}.")
    return seconds, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="counted runs, after one that warms the disk cache")
    options = parser.parse_args()
    prompt = str(ROOT / "examples" / "report.txt")
    rows: list[tuple[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        commands = {
            "ccella --help": ["--help"],
            "ccella zoo list": ["zoo", "list"],
            "ccella doctor": ["doctor"],
            "ccella doctor ccella-pp": ["doctor", "ccella-pp"],
            "ccella sample, one report": ["sample", "--prompt", prompt, "--overwrite", "-o", f"{scratch}/sample"],
            "ccella phantom, 100 exams of 96x96x32": [
                "phantom", "-n", "100", "--shape", "96,96,32", "--spacing", "1,1,3", "-o", f"{scratch}/phantom",
            ],
        }  # fmt: skip
        for label, arguments in commands.items():
            runs = 1 if "phantom" in label else options.n
            if runs > 1:
                time_command(arguments)
            figures = [time_command(arguments) for _ in range(runs)]
            seconds = [figure[0] for figure in figures]
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            peak = max(figure[1] for figure in figures)
            rows.append((label, f"{statistics.median(seconds):.2f} s ({spread}, {runs} runs), peak {peak:.2f} GiB"))
    report("command_time", rows)


if __name__ == "__main__":
    main()

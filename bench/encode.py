"""`ccella encode` on phantom exams as a user runs it: exams per minute, and memory at the 10th and at the last exam.

python bench/encode.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import report
from prompt_fidelity import TEST_SEED, run

EARLY = 10


def resident_gib(pid: int) -> float:
    """Resident set of a running process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 2**20


def watch(exams: Path, out: Path, model: str) -> tuple[list[float], list[float], float]:
    """Seconds since the start and resident GiB whenever an exam is done, and seconds of the whole command."""
    ccella = Path(sys.executable).with_name("ccella")
    command = [str(ccella), "encode", str(exams), "-o", str(out), "--model", model, "--json", "-q"]
    started = time.perf_counter()
    seconds, memory = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            json.loads(line)
            seconds.append(time.perf_counter() - started)
            memory.append(resident_gib(process.pid))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}.")
    return seconds, memory, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("-n", type=int, default=100, help="exams, more than 10")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        exams, out = Path(scratch) / "exams", Path(scratch) / "latents"
        run("phantom", "-n", options.n, "--seed", TEST_SEED, "-o", exams, "-q")
        seconds, memory, total = watch(exams, out, options.model)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    early, late = memory[EARLY - 1], memory[-1]
    per_minute = 60 * (len(seconds) - EARLY) / (seconds[-1] - seconds[EARLY - 1])
    report(
        "encode",
        [
            ("exams", len(seconds)),
            (f"exams per minute, after the first {EARLY}", round(per_minute, 1)),
            ("whole command, s", round(total, 1)),
            (f"memory at exam {EARLY}, GiB", round(early, 3)),
            (f"memory at exam {len(seconds)}, GiB", round(late, 3)),
            ("memory, last / early", round(late / early, 4)),
            ("written per exam, MB", round(size / len(seconds) / 1e6, 2)),
        ],
        details={"seconds": [round(value, 2) for value in seconds], "gib": [round(value, 4) for value in memory]},
    )


if __name__ == "__main__":
    main()

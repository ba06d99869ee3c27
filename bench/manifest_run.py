"""A long manifest of prompts: memory stays flat, records stay in order, and kills change nothing.

    python bench/manifest_run.py -n 1000 --kills 10

`ccella sample` with the bundled model runs over the manifest twice, as a user starts it: once unbroken, while its
memory is read after every exam, and once killed with -9 after random numbers of exams and resumed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import report

LIMIT = 0.05


def write_manifest(path: Path, count: int) -> list[str]:
    """One phantom report per line; returns the ids."""
    from ccella.imaging.phantom.exam import exam_findings
    from ccella.imaging.phantom.report import write_report

    lines = []
    for index in range(count):
        report_text = write_report(exam_findings(11, index, 1), np.random.default_rng([11, index]))
        lines.append({"id": f"p{index:05d}", "prompt": report_text})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [str(line["id"]) for line in lines]


def start(manifest: Path, out: Path, steps: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ccella.cli.main", "sample", "--prompt", str(manifest), "-o", str(out), "--steps",
               str(steps), "--device", "cpu", "--json", "-q", "--resume"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "CCELLA_MODEL"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def resident_bytes(pid: int) -> int:
    """What a process has in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(process: "subprocess.Popen[str]", kill_after: int | None = None) -> tuple[list[str], list[int], bool]:
    """Ids in the order printed, memory at the last record of each, and whether the process was killed."""
    assert process.stdout is not None
    ids: list[str] = []
    memory: list[int] = []
    killed = False
    for line in process.stdout:
        if killed:
            continue  # the last line may be half a line
        record = json.loads(line)
        if not ids or ids[-1] != record["id"]:
            ids.append(record["id"])
            memory.append(0)
        if record["channel"] == record["channels"][-1]:
            memory[-1] = resident_bytes(process.pid)
            if kill_after is not None and len(ids) > kill_after:
                process.send_signal(signal.SIGKILL)
                killed = True
    code = process.wait()
    if code != (-signal.SIGKILL if killed else 0):
        raise SystemExit(f"Sampling ended with exit code {code}.")
    return ids, memory, killed


def read_files(out: Path) -> dict[str, bytes]:
    """Digest-free comparison: every file but run.json, which holds times, and the locks."""
    paths = (path for path in out.rglob("*") if path.is_file() and ".ccella" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.name != "run.json"}


def growth(memory: list[int]) -> float:
    """Memory in the last tenth of the exams relative to the second tenth, less one."""
    tenth = max(1, len(memory) // 10)
    return statistics.mean(memory[-tenth:]) / statistics.mean(memory[tenth : 2 * tenth]) - 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the places where the run is killed")
    options = parser.parse_args()
    places = sorted(random.Random(options.seed).sample(range(1, options.count), options.kills))
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        ids = write_manifest(base / "prompts.jsonl", options.count)
        order, memory, _ = run(start(base / "prompts.jsonl", base / "whole", options.steps))
        killed = sum(run(start(base / "prompts.jsonl", base / "killed", options.steps), place)[2] for place in places)
        last, _, _ = run(start(base / "prompts.jsonl", base / "killed", options.steps))
        whole, resumed = read_files(base / "whole"), read_files(base / "killed")
        listed = [json.loads(line)["id"] for line in resumed["manifest.jsonl"].splitlines()]
        size = sum(map(len, whole.values()))
        shutil.rmtree(base / "killed")
    grown = growth(memory)
    same = whole == resumed
    in_order = order == ids == last and listed == [identifier for identifier in ids for _ in range(3)]
    rows = [
        ("exams", options.count), ("steps", options.steps),
        ("memory, MiB: second tenth", memory[len(memory) // 10] / 2**20), ("memory, MiB: last", memory[-1] / 2**20),
        ("growth of memory, last tenth on second", f"{100 * grown:+.1f} %"),
        ("records in input order", "all" if in_order else "no"),
        ("killed with -9 after exams", ", ".join(map(str, places))),
        ("killed and resumed against unbroken", f"{len(whole)} files, {size / 1e6:.0f} MB, "
         + ("the same bytes" if same else "different")),
    ]  # fmt: skip
    report("manifest_run", rows, details={"memory_mib": [round(value / 2**20, 1) for value in memory]})
    if not (same and in_order and grown <= LIMIT and killed == options.kills):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

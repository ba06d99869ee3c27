"""Faults that a run may meet, and whether it survives them with nothing lost.

    python bench/faults.py

Each row is one stage of the pipeline, with the bundled model, in a process that is killed, cut, starved or disturbed at
an exact place; then the same command with --resume; then every file compared with those of an undisturbed run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from machine import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
REPORTS = ("Lesion in the left peripheral zone at the mid-gland, PI-RADS 5.", "No suspicious lesion. PI-RADS 1.")
COMMANDS = {
    "sample": ["sample", "--prompt", "prompts.jsonl", "--steps", "2"],
    "sample --latents": ["sample", "--prompt", "prompts.jsonl", "--steps", "2", "--latents"],
    "encode": ["encode", "exams"],
    "decode": ["decode", "whole/sample --latents"],
    "phantom": ["phantom", "-n", "2", "--shape", "32,32,16", "--spacing", "3,3,6", "--workers", "1"],
}


class Trial:
    """One working folder with inputs and undisturbed runs, and the table.

    Args:
        base: An empty folder.
        program: Runs commands (tests/support/command_server.py).
    """

    def __init__(self, base: Path, program: "object") -> None:
        self.base = base
        self.program = program
        self.rows: list[tuple[str, str]] = []
        lines = [json.dumps({"id": f"p{number}", "prompt": text}) + "\n" for number, text in enumerate(REPORTS)]
        (base / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        size = ["--shape", "32,32,16", "--spacing", "3,3,6"]
        command = [
            sys.executable,
            "-m",
            "ccella.cli.main",
            "phantom",
            "-n",
            "2",
            *size,
            "-q",
            "-o",
            str(base / "exams"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for stage in COMMANDS:
            self.expect(0, self.run(stage, base / "whole" / stage))

    def run(self, stage: str, out: Path, *options: str, **job: object) -> "object":
        return self.program.run(*COMMANDS[stage], *options, "-o", str(out), cwd=self.base, **job)

    def expect(self, code: int, done: "object") -> None:
        if done.code != code:
            raise SystemExit(f"Exit code {done.code} instead of {code}:\n{done.err}")

    def resume(self, stage: str, fault: str, out: Path) -> None:
        """Completes a disturbed run and adds its row."""
        left = [name for name in read_files(out) if not name.endswith(".part")]
        done = self.run(stage, out, *([] if stage == "phantom" else ["--resume"]))
        whole, resumed = read_files(self.base / "whole" / stage), read_files(out)
        same = done.code == 0 and whole == resumed
        told = f"resumed: {len(whole)} files, the same bytes" if same else f"LOST: exit code {done.code}"
        self.rows.append((f"{stage}, {fault}", f"{told} ({len(left)} files were there)"))


def read_files(out: Path) -> dict[str, bytes]:
    paths = (path for path in out.rglob("*") if path.is_file() and ".ccella" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.name != "run.json"}


def kill(trial: Trial, scratch: Path) -> None:
    for stage in COMMANDS:
        for place, action in ((2, "cut"), (3, "SIGKILL"), (6, "cut")):
            out = scratch / f"{stage}{place}"
            done = trial.run(stage, out, at={"rename": place, "do": action})
            if done.code == 0:
                continue
            trial.expect(-signal.SIGKILL, done)
            moment = "in the middle of file" if action == "cut" else "before naming file"
            trial.resume(stage, f"kill -9 {moment} {place}", out)
        out = scratch / f"{stage}-term"
        trial.expect(130, trial.run(stage, out, at={"rename": 3, "do": "SIGTERM"}))
        trial.resume(stage, "SIGTERM", out)


def fill(trial: Trial, scratch: Path) -> None:
    for stage in COMMANDS:
        out = scratch / f"{stage}-limit"
        trial.expect(2, trial.run(stage, out, file_bytes=1500))
        trial.resume(stage, "no file may exceed 1500 bytes", out)
    disk = scratch / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        trial.rows.append(("full disk", "not tried: this user may not mount a small file system"))
        return
    try:
        for stage in COMMANDS:
            filler = disk / "filler"
            filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 64 * 1024))
            trial.expect(2, trial.run(stage, disk / stage))
            filler.unlink()
            trial.resume(stage, "full disk (tmpfs)", disk / stage)
            subprocess.run(["rm", "-r", disk / stage], check=True)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def disturb(trial: Trial, scratch: Path) -> None:
    out = scratch / "twice"
    first = trial.program.start(*COMMANDS["sample"], "-o", str(out), cwd=trial.base, at={"rename": 5, "do": "SIGSTOP"})
    first.wait_until_stopped()
    for options in ([], ["--resume"], ["--overwrite"]):
        trial.expect(2, trial.run("sample", out, *options))
    os.kill(first.pid, signal.SIGCONT)
    trial.expect(0, first.wait())
    trial.resume("sample", "a second run into its folder (refused)", out)
    for name, years in (("past", -40), ("future", 40)):
        out = scratch / name
        trial.expect(-signal.SIGKILL, trial.run("sample", out, at={"rename": 9, "do": "SIGKILL"}))
        for path in out.rglob("*"):
            moment = path.stat().st_mtime + years * 365.25 * 86400
            os.utime(path, (moment, moment))
        trial.resume("sample", f"killed, and its files dated into the {name}", out)
    out = scratch / "caches"
    nowhere = dict.fromkeys(("HOME", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"), "/dev/null/x")
    command = [sys.executable, "-m", "ccella.cli.main", *COMMANDS["sample"], "-q", "-o", str(out)]
    subprocess.run(command, cwd=trial.base, env={**os.environ, **nowhere}, check=True, stdout=subprocess.DEVNULL)
    trial.resume("sample", "no home and no cache that can be written", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    os.environ.pop("CCELLA_MODEL", None)
    from support.command_server import Program

    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("base", "scratch", "streams")]
        for folder in folders:
            folder.mkdir()
        program = Program(folders[2])
        trial = Trial(folders[0], program)
        groups: tuple[Callable[[Trial, Path], None], ...] = (kill, fill, disturb)
        for group in groups:
            group(trial, folders[1])
        program.close()
    lost = sum("LOST" in told for _, told in trial.rows)
    report("faults", [*trial.rows, ("faults", len(trial.rows)), ("lost", lost)])
    if lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

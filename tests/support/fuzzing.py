"""Inputs that no one meant to give, and what must hold of the command line whatever it is given.

A `Case` is a command line with the files around it. `Sandbox.run` executes it in this process and notes every file that
Python writes, wherever it lies; `find_fault` says what rule was broken: no traceback and no unexplained error, one
sentence and one exit code for what is refused, no write outside the output folder, no half file, no hang, no swelling.
"""

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 60
# Done, refused, weights missing, some items failed.
EXPLAINED = (0, 2, 3, 7)
# Where the paths stand among the arguments of the events that change the file system.
WRITES = {
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,),
}  # fmt: skip
NOT_DONE = ("subprocess.Popen", "os.system", "socket.connect", "os.exec", "os.fork")


class Hang(BaseException):
    """A command took more than a minute."""


@dataclass(frozen=True)
class Case:
    """A command line, and files by path below the working directory."""

    args: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""


@dataclass
class Outcome:
    """What became of a case."""

    code: int
    out: str
    err: str
    touched: list[str]
    remains: list[str]
    noise: str


def _absolute(path: "str | bytes | os.PathLike") -> str:
    # Not resolved: that would ask the file system, and a link out of the folder is a fault of its own.
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100


class Watch:
    """Notes what Python writes while it is open. Audit hooks cannot be taken back, so there is one for good."""

    _active: "list[str] | None" = None
    _hooked = False

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[list[str]]:
        if not cls._hooked:
            sys.addaudithook(cls._hook)
            cls._hooked = True
        cls._active = []
        try:
            yield cls._active
        finally:
            cls._active = None

    @classmethod
    def _hook(cls, event: str, args: tuple) -> None:
        seen = cls._active
        if seen is None:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            if isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                seen.append(_absolute(args[0]))
        elif event in WRITES:
            paths = [args[place] for place in WRITES[event]]
            seen.extend(_absolute(path) for path in paths if isinstance(path, str | bytes | os.PathLike))
        elif event in NOT_DONE:
            seen.append(event)


class Sandbox:
    """A working directory with the tiny model and exams beside it; each case finds it as new.

    Args:
        root: An empty folder.
        model: A model folder, linked as `model`.
        exams: Exams, linked as `exams`.
    """

    def __init__(self, root: Path, model: Path, exams: Path) -> None:
        self.root = root
        self.links = {"model": model, "exams": exams}

    def run(self, case: Case) -> Outcome:
        from ccella.cli.main import run

        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        for name, target in self.links.items():
            (self.root / name).symlink_to(target)
        for name, content in case.files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)
        before = Path.cwd()
        noise = tempfile.TemporaryFile()  # noqa: SIM115 - what reaches the stream itself, from libraries in C
        descriptor = os.dup(2)
        os.dup2(noise.fileno(), 2)
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(case.stdin))
        alarm = signal.signal(signal.SIGALRM, _raise_hang)
        os.chdir(self.root)
        signal.alarm(SECONDS)
        try:
            with Watch.open() as touched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(list(case.args))
        finally:
            signal.alarm(0)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            signal.signal(signal.SIGALRM, alarm)
            sys.stdin = stdin
            os.chdir(before)
        allowed = (str(self.root / "out"), os.devnull)
        stray = [path for path in touched if path not in allowed and not path.startswith(allowed[0] + os.sep)]
        folder = self.root / "out"
        remains = [str(path) for path in folder.rglob("*.part")] if folder.is_dir() else []
        texts = (stream.buffer.getvalue().decode() for stream in (out, err) if stream.flush() is None)
        with noise:
            noise.seek(0)
            spoken = noise.read().decode(errors="replace")
        return Outcome(code, *texts, sorted(set(stray)), remains, spoken)


def _raise_hang(number: int, frame: object) -> None:
    raise Hang


def find_fault(outcome: Outcome) -> str | None:
    """The rule that an outcome breaks, or None."""
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    if outcome.touched:
        return f"touched {outcome.touched[0]}"
    if "Traceback" in outcome.err or "CCELLA_DEBUG" in outcome.err:
        return f"unexplained: {errors}"
    if outcome.code not in EXPLAINED:
        return f"exit code {outcome.code}: {errors}"
    if len(errors) != (outcome.code != 0):
        return f"exit code {outcome.code} with {len(errors)} errors: {outcome.err[:300]}"
    if outcome.noise:
        return f"a library speaks: {outcome.noise[:300]}"
    if "1 of 1 items failed" in outcome.err:
        return f"not refused as input: {outcome.err[:300]}"
    if outcome.remains:
        return f"half files: {outcome.remains[0]}"
    if outcome.code and max(map(len, outcome.err.splitlines())) > 3000:
        return "an error of more than 3000 letters"
    return None

"""Runs the command line in processes of its own that can be killed, stopped and starved at an exact place.

Starting `ccella` imports for seconds. The server imports once and forks for every command, so each runs in a real
process that signals, limits and full disks meet as they would a user's. It has computed nothing before it forks:
threads of a numerical library would not survive that.

A job is one JSON object per line on the server's standard input:
    args, cwd, env   the command line, its working directory and further environment variables
    stdin            file for standard input
    at               {"rename": n, "do": "SIGKILL"}: the signal that the process sends itself when it is about to give
                     its n-th file its name; "cut" cuts the temporary file in half first and is SIGKILL otherwise
    file_bytes       largest file that the process may write
"""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PRELOADED = (
    "torch", "safetensors.torch", "nibabel", "SimpleITK", "scipy.ndimage", "transformers", "diffusers.schedulers",
    "PIL.Image", "monai.networks.nets.diffusion_model_unet", "ccella.cli.sample", "ccella.cli.encode",
    "ccella.cli.decode", "ccella.cli.phantom", "ccella.pipeline.sample", "ccella.pipeline.decode",
    "ccella.pipeline.encode", "ccella.zoo.families.ccella.text", "ccella.zoo.families.ccella.autoencoder",
    "ccella.zoo.families.ccella.denoiser", "ccella.imaging.phantom.dataset", "ccella.export.runtimes",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code (negative: the signal that killed it) and what it wrote."""

    code: int
    out: str
    err: str


class Program:
    """The client: `run` waits for a command, `start` does not."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def _ask(self, question: dict) -> dict:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *args: str, cwd: Path, **job: object) -> "Running":
        self._count += 1
        streams = [str(self._scratch / f"{self._count}.{name}") for name in ("out", "err")]
        pid = self._ask({"args": [str(arg) for arg in args], "cwd": str(cwd), "streams": streams, **job})["pid"]
        return Running(self, pid, streams)

    def run(self, *args: str, cwd: Path, **job: object) -> Done:
        return self.start(*args, cwd=cwd, **job).wait()


class Running:
    """A command at work."""

    def __init__(self, program: Program, pid: int, streams: list[str]) -> None:
        self.pid = pid
        self._program = program
        self._streams = streams

    def wait(self) -> Done:
        answer = self._program._ask({"wait": self.pid})
        assert "code" in answer, f"The process was stopped: {answer}"
        return Done(answer["code"], *(Path(name).read_text(encoding="utf-8") for name in self._streams))

    def wait_until_stopped(self) -> None:
        answer = self._program._ask({"wait": self.pid})
        assert answer == {"stopped": signal.SIGSTOP}, self.wait()


def serve() -> None:
    """The server's loop."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        job = json.loads(line)
        if "wait" in job:
            _, status = os.waitpid(job["wait"], os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            answer = {"stopped": os.WSTOPSIG(status)} if stopped else {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                os._exit(_work(job))
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _work(job: dict) -> int:
    """The child: takes its streams, limits and fault, then is `ccella`."""
    from ccella.cli.main import main

    files = [job.get("stdin", os.devnull), *job["streams"]]
    for number, (name, flags) in enumerate(zip(files, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2), strict=True)):
        os.dup2(os.open(name, flags, 0o600), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    if "file_bytes" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    if "at" in job:
        _arm(job["at"]["rename"], job["at"]["do"])
    sys.argv = ["ccella", *job["args"]]
    try:
        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _arm(place: int, action: str) -> None:
    original, count = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == place:
            if action == "cut":
                os.truncate(self, self.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL if action == "cut" else signal.Signals[action])
        return original(self, target)

    Path.replace = replace  # type: ignore[method-assign]


if __name__ == "__main__":
    serve()

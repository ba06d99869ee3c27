"""`ccella zoo` against the Hub of `hub_server`: models that lie there, the command's process, its cache."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ccella.zoo.card import read_card
from ccella.zoo.folder import write_card
from ccella.zoo.registry import find_card

from .hub_server import Hub

REPO = "lab/encoder"
SMALL = b'{"model_type": "t5"}'
LARGE = bytes(range(256)) * 300  # 77 KB
FILES = {"config.json": SMALL, "model.safetensors": LARGE}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def records(done: subprocess.CompletedProcess[str]) -> list[dict]:
    """What a command with --json wrote."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def commit_of(model: Path) -> str:
    """The commit that a model's card holds its text encoder to."""
    return read_card(model / "card.toml").part("text_encoder").files[0].revision


class HubClient:
    """Runs `ccella zoo` with a cache of its own and the test's Hub as the only one.

    Attributes:
        hub: The Hub.
        folder: Where models are written.
        environment: Of the command.
        cache: The Hub client's cache.
    """

    def __init__(self, hub: Hub, folder: Path) -> None:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE", "CCELLA"))
        }
        local = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self.hub = hub
        self.folder = folder
        self.environment = kept | local | {"HF_HOME": str(folder / "home")}
        self.cache = folder / "home" / "hub"

    def write_model(self, repo: str, revision: str, files: Mapping[str, str], **licence: object) -> Path:
        """A model folder whose text encoder lies on the Hub; `files` gives the digest stated for each path."""
        document = json.loads(json.dumps(find_card("ccella").document))
        rows = [{"repo": repo, "revision": revision, "path": path, "sha256": sha256} for path, sha256 in files.items()]
        document["parts"]["text_encoder"]["files"] = rows
        del document["parts"]["autoencoder"]["checkpoint"]
        document["licence"].update(licence)
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        write_card(model / "card.toml", document)
        return model

    def pinned_model(self) -> Path:
        """A model with every digest pinned, its files on the Hub."""
        return self.write_model(REPO, self.hub.add(REPO, FILES), {path: digest(data) for path, data in FILES.items()})

    def unpinned_model(self) -> Path:
        """A model of which neither commit nor digests are known, its files on the Hub."""
        self.hub.add(REPO, FILES)
        return self.write_model(REPO, "unpinned", dict.fromkeys(FILES, "unpinned"))

    def snapshot(self, commit: str, path: str) -> Path:
        """A file of REPO in the cache."""
        return self.cache / "models--lab--encoder" / "snapshots" / commit / path

    def run(self, *arguments: object, before: Sequence[str] = (), **changed: str) -> subprocess.CompletedProcess[str]:
        """Runs `ccella zoo ...`; `before` is what it is run by."""
        done = subprocess.run(
            [*before, *_command(arguments)], env=self.environment | changed, capture_output=True, text=True,
            encoding="utf-8", timeout=120, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Starts `ccella zoo ...`, which can be interrupted."""
        return subprocess.Popen(
            _command(arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=_take_interruptions,
        )  # fmt: skip

    def start_and_pause(self, model: Path) -> subprocess.Popen[bytes]:
        """A pull that has received a part of the large file and waits for more."""
        self.hub.pause_after = 1000
        process = self.start("pull", model, "--json")
        assert self.hub.paused.wait(60)
        return process


def _command(arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "ccella.cli.main", "zoo", *map(str, arguments)]


def _take_interruptions() -> None:
    # Where the tests run in the background SIGINT is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

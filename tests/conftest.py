"""Fixtures shared by several rooms."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import command_server
from support.hub_client import HubClient
from support.hub_server import serve_hub
from support.stages import Stages
from support.tiny_model import write_tiny_exams, write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The model of `write_tiny_model`."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def exported_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with all its graphs as ONNX for images of 8x8x8 to 24x16x8, made once for all test processes."""
    from filelock import FileLock

    from ccella.cli.main import run

    root = tmp_path_factory.getbasetemp()
    # With several processes each has a folder of its own below a common one.
    out = (root if root.parent.name.startswith("pytest-of-") else root.parent) / "exported" / "model"
    with FileLock(f"{out.parent}.lock"):
        if not (out / "done").exists():
            shapes = "--shape=8,8,8:16,16,8:24,16,8"
            assert (
                run(["export", str(tiny_model), "--to", "onnx", shapes, "--device", "cpu", "-q", "-o", str(out)]) == 0
            )
            (out / "done").touch()
    return out


@pytest.fixture(scope="session")
def tiny_exams(tmp_path_factory) -> Path:
    """The exams of `write_tiny_exams`."""
    return write_tiny_exams(tmp_path_factory.mktemp("exams"))


@pytest.fixture(scope="session")
def stages(tiny_model) -> Stages:
    """The tiny model, loaded."""
    return Stages(tiny_model)


def read_files(out: Path) -> dict[str, bytes]:
    """Content of every file of a run, by path, but not of run.json, which holds times, nor of the locks."""
    paths = [path for path in out.rglob("*") if path.is_file() and ".ccella" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.name != "run.json"}


@pytest.fixture(name="read_files")
def read_files_fixture():
    """The function `read_files`."""
    return read_files


def largest_difference(first: Path, second: Path) -> float:
    """Largest difference of the images of two runs, in the 0..1 that the network made."""
    from ccella.imaging.files import read_volume
    from ccella.zoo.runs import read_run

    worst = 0.0
    for record in read_run(first):
        span = record.data["intensity"]["upper"] - record.data["intensity"]["lower"]
        x, y = (read_volume(path).data for path in (record.path, second / record.path.relative_to(first)))
        worst = max(worst, float(np.abs(x - y).max() / span))
    return worst


@pytest.fixture(name="largest_difference")
def largest_difference_fixture():
    """The function `largest_difference`."""
    return largest_difference


@pytest.fixture
def show_page(tmp_path):
    """Shows a page in headless Chromium: its picture of 1600 x 1200 grey values, and the tree that it became."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if os.environ.get("CCELLA_REQUIRE_BROWSER"):
            pytest.fail("CCELLA_REQUIRE_BROWSER is set, and there is no Chromium on this machine")
        pytest.skip("no Chromium on this machine")

    def show(page: Path) -> tuple[np.ndarray, str]:
        common = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1600",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]  # fmt: skip
        shown = tmp_path / "page.png"
        done = subprocess.run(
            [*common, "--enable-logging=stderr", f"--screenshot={shown}", page.as_uri()],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120, check=True,
        )  # fmt: skip
        # What the policy forbids, a script that fails and a picture that cannot be decoded all speak on the console.
        assert "CONSOLE" not in done.stderr
        from PIL import Image

        tree = subprocess.run(
            [*common, "--dump-dom", page.as_uri()],
            capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
        ).stdout  # fmt: skip
        return np.asarray(Image.open(shown).convert("L"), float), tree

    return show


@pytest.fixture(scope="session")
def prompts():
    """Five prompts that differ in everything a prompt may have."""
    from ccella.pipeline.prompts import PromptItem

    return [
        PromptItem("a", "Lesion left peripheral zone, PIRADS 5"),
        PromptItem("b", "No suspicious lesion"),
        PromptItem("c", "Lesion right transition zone apex, PIRADS 4", spacing_mm=(1.0, 1.5, 3.0)),
        PromptItem("d", "Prostate normal", class_label=1),
        PromptItem("e", "Lesion base right, 12 mm", meta={"site": "x"}),
    ]


@pytest.fixture(scope="session")
def five(stages, prompts, tmp_path_factory) -> Path:
    """The run folder of the five prompts, sampled one by one."""
    out = tmp_path_factory.mktemp("five") / "run"
    stages.sample(prompts, out)
    return out


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The command line in processes that can be killed at an exact place; see command_server.py."""
    program = command_server.Program(tmp_path_factory.mktemp("streams"))
    yield program
    program.close()


@pytest.fixture
def hub():
    """A Hub on this machine, with nothing on it."""
    with serve_hub() as running:
        yield running


@pytest.fixture
def client(hub, tmp_path) -> HubClient:
    """`ccella zoo` with that Hub and a cache of its own."""
    return HubClient(hub, tmp_path)

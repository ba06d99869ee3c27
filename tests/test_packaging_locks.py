"""requirements/*.lock hold what pyproject.toml asks for, at the versions of constraints.txt, each with its digests."""

import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("cpu", "gpu", "train", "dev", "build", "tools", "torch")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalise(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path):
    text = path.read_text(encoding="utf-8")
    return {normalise(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s]+)", text, re.MULTILINE)}


def read_lock(name):
    return read_pins(ROOT / "requirements" / f"{name}.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_has_digests_and_the_tried_version(name):
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    entries = [block for block in blocks if block and not block.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), entry[:200]
    assert "://" not in text
    tried = read_pins(ROOT / "constraints.txt")
    assert {key: version for key, version in read_lock(name).items() if tried.get(key, version) != version} == {}


@pytest.mark.parametrize("name", ["cpu", "train", "dev"])
def test_a_lock_is_whole(name):
    """What the locked packages themselves need here is locked too; torch, which is named apart, needs no more."""
    from packaging.requirements import Requirement

    locked = read_lock(name)
    wanted = [Requirement(line) for line in load("locks").read_sets()[name]]
    seen = set()
    while wanted:
        requirement = wanted.pop()
        key = normalise(requirement.name)
        if key in seen or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        if key == "torch" or key.startswith(("nvidia-", "cuda-", "triton")):
            continue
        assert key in locked, f"{key} is in no requirements/{name}.lock: run `make lock`."
        assert requirement.specifier.contains(locked[key], prereleases=True), f"{requirement}: run `make lock`."
        wanted += [Requirement(line) for line in metadata.requires(key) or []]


def test_torch_is_named_apart():
    for name in ("cpu", "gpu", "train", "dev"):
        assert not [key for key in read_lock(name) if re.match(r"(torch|triton)$|nvidia-|cuda-|tensorrt", key)]
    assert read_lock("torch")["torch"] == read_pins(ROOT / "constraints.txt")["torch"]
    # Two packages that provide the same module are never installed together.
    assert "onnxruntime" not in read_lock("gpu") and "onnxruntime-gpu" not in read_lock("cpu")


def test_a_file_with_another_digest_is_refused(tmp_path):
    """pip as Docker and CI call it, with a wheel that is not the one that was locked."""
    import zipfile

    name = tmp_path / "einops-0.8.2-py3-none-any.whl"
    with zipfile.ZipFile(name, "w") as wheel:
        wheel.writestr("einops-0.8.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: einops\nVersion: 0.8.2\n")
        wheel.writestr("einops-0.8.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("einops-0.8.2.dist-info/RECORD", "")
    lock = tmp_path / "one.lock"
    text = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    lock.write_text(re.search(r"^einops==(?:.*\\\n)+.*\n", text, re.MULTILINE)[0], encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--find-links", str(tmp_path), "--no-deps",
        "--require-hashes", "--target", str(tmp_path / "there"), "-r", str(lock),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there").exists()


def test_the_page_of_licences_is_what_is_installed():
    remedy = "docs/licences.md is out of date: run `make licences` and commit what it writes."

    def rows(text):
        # Builds of torch hold different things, and say so in their terms.
        return [line for line in text.splitlines() if not line.startswith("| torch |")]

    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert rows(page) == rows(load("licences").make_page()), remedy
    for name in ("ccella-pp", "medicalnet-resnet50", "monai"):
        assert re.search(rf"^\| `?{name}`? \|", page, re.MULTILINE)

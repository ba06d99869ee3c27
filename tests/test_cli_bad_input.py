"""What the command line says to bad input: one sentence that names it, a remedy, exit code 2, and nothing written."""

import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ccella.cli.main import run

SHAPE = (18, 18, 8)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny_model) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCELLA_MODEL", str(tiny_model))
    Path("report.txt").write_text("lesion left", encoding="utf-8")
    for channel, top in (("t2w", 800.0), ("hbv", 300.0), ("adc", 2500.0)):
        save(channel, np.random.default_rng(1).uniform(0.1 * top, top, SHAPE).astype(np.float32))
    return tmp_path


def save(name: str, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """`exam/<name>.nii.gz`; by itself, since the program's own writer would refuse much of this."""
    Path("exam").mkdir(exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(f"exam/{name}.nii.gz")


def cut(name: str) -> None:
    """Leaves three quarters of a file."""
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: len(content) * 3 // 4])


def refuse(capsys, arguments: list[str]) -> str:
    """What is said, after making sure that it is one sentence and a remedy with exit code 2, and nothing is made."""
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    assert run([*arguments, "-q"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("  ") and len(line) > 10 for line in lines[1:]), err
    assert len(lines) == 2
    written = {path for path in Path().rglob("*") if path.is_file() and ".ccella" not in path.parts} - set(before)
    # The folder of a run whose every exam is refused holds what was asked of it, and no artefact.
    assert {path.name for path in written} <= {"run.json", "manifest.jsonl", "splits.csv", "data-report.json"}
    assert all(path.stat().st_size == 0 for path in written if path.name == "manifest.jsonl")
    return err


def test_a_missing_prompt(workplace, capsys):
    err = refuse(capsys, ["sample", "--prompt", "nowhere.txt", "-o", "out"])
    assert "There is no file or folder 'nowhere.txt'." in err


def test_a_prompt_longer_than_the_window_is_cut_on_the_left_and_said(workplace, capsys):
    words = " ".join(["normal"] * 60)
    Path("long.txt").write_text(f"lesion right {words}", encoding="utf-8")
    Path("cut.txt").write_text(f"lesion left {words}", encoding="utf-8")
    assert run(["sample", "--prompt", "long.txt", "-o", "a", "--steps", "2", "--seed", "1"]) == 0
    err = capsys.readouterr().err
    assert "The prompt of long is longer than the text encoder's 24 tokens: its beginning was cut off." in err
    assert json.loads(Path("a/long/long_t2w.json").read_text(encoding="utf-8"))["prompt_truncated"] is True
    # Only what was cut differs, so the images are the same.
    assert run(["sample", "--prompt", "cut.txt", "-o", "b", "--steps", "2", "--seed", "1", "-q"]) == 0
    assert Path("a/long/long_t2w.nii.gz").read_bytes() == Path("b/cut/cut_t2w.nii.gz").read_bytes()


@pytest.mark.parametrize("stage", [["sample", "--prompt", "report.txt"], ["encode", "exam"], ["decode", "latents"]])
def test_an_unknown_model_and_the_nearest_name(stage, workplace, capsys):
    err = refuse(capsys, [*stage, "-o", "out", "--model", "ccela-pp"])
    assert "There is no model 'ccela-pp'." in err
    assert "Did you mean ccella-pp" in err


def _claim(name: str, shape: tuple[int, int, int]) -> None:
    """A NIfTI-2 file of some hundred bytes whose header claims this shape."""
    header = bytearray(540)
    struct.pack_into("<i8s", header, 0, 540, b"n+2\0\r\n\x1a\n")
    struct.pack_into("<hh", header, 12, 16, 32)
    struct.pack_into("<8q", header, 16, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<q", header, 168, 544)
    struct.pack_into("<ii", header, 344, 1, 1)
    struct.pack_into("<12d", header, 400, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    Path(f"exam/{name}.nii.gz").unlink()
    Path(f"exam/{name}.nii").write_bytes(bytes(header) + bytes(100))


RNG = np.random.default_rng(2)
GOOD = RNG.uniform(100, 1000, SHAPE).astype(np.float32)
WITH_NAN = np.where(np.arange(GOOD.size).reshape(SHAPE) == 7, np.nan, GOOD)
FAR = AFFINE + np.array([[0, 0, 0, 5000.0]] + [[0, 0, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: cut("exam/t2w.nii.gz"), "is truncated or damaged"),
        (lambda: save("hbv", WITH_NAN), "holds 1 voxels that are NaN or infinite"),
        (lambda: save("t2w", np.full(SHAPE, 4.0, np.float32)), "is constant: every voxel is 4"),
        (lambda: save("t2w", GOOD[:, :, 0]), "is 2-D (18 x 18) where 3-D is due"),
        (lambda: save("adc", np.stack([GOOD, GOOD], -1)), "is 4-D (18 x 18 x 8 x 2) where 3-D is due"),
        (lambda: save("t2w", GOOD[:, :, :1]), "is a single slice (18 x 18 x 1)"),
        (lambda: save("adc", GOOD, FAR), "overlap"),
        (lambda: save("adc", GOOD / 1000), "do not exceed 0.954: it looks like 1e-3 mm2/s"),
        (lambda: save("adc", GOOD / 1e6), "it looks like mm2/s"),
        (lambda: save("t2w", GOOD, np.diag([2e-9, 2.0, 4.0, 1.0])), "has voxels of 2e-09 x 2 x 4 mm"),
        (lambda: _claim("t2w", (10**4, 10**4, 10**4)), "10000 x 10000 x 10000 = 1e+12 voxels"),
        (lambda: Path("exam/adc.nii.gz").unlink(), "has no 'adc'; it has hbv, t2w"),
    ],
)  # fmt: skip
def test_exams_that_are_none(spoil, said, workplace, capsys):
    spoil()
    err = refuse(capsys, ["encode", "exam", "-o", "out"])
    assert said in err
    assert "exam" in err


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [("../up", "holds a path separator"), ("a/b", "holds a path separator"), ("a\\b", "holds a path separator"),
     ("a..b", "holds '..'"), ("..", "holds '..'"), (".x", "starts with a dot"), ("", "has no id")],
)  # fmt: skip
def test_ids_that_would_leave_the_folder(identifier, reason, workplace, capsys):
    Path("p.jsonl").write_text(json.dumps({"id": identifier, "prompt": "lesion"}), encoding="utf-8")
    row = {"id": identifier, **{channel: f"exam/{channel}.nii.gz" for channel in ("t2w", "hbv", "adc")}}
    Path("e.jsonl").write_text(json.dumps(row), encoding="utf-8")
    for arguments in (["sample", "--prompt", "p.jsonl"], ["encode", "e.jsonl"]):
        assert reason in refuse(capsys, [*arguments, "-o", "out"])


def test_a_latent_whose_id_would_leave_the_folder(workplace, capsys):
    assert run(["sample", "--prompt", "report.txt", "-o", "latents", "--latents", "--steps", "1", "-q"]) == 0
    manifest = Path("latents/manifest.jsonl")
    record = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**record, "id": "../../up"}), encoding="utf-8")
    assert "holds a path separator" in refuse(capsys, ["decode", "latents", "-o", "out"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_that_cannot_be_printed(workplace, capsys):
    """Standard output on a full disk is an error, not a silent success."""
    import subprocess
    import sys

    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "ccella.cli.main", "zoo", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "No space left on device." in done.stderr
    assert "Traceback" not in done.stderr

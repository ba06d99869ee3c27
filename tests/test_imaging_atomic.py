"""Files appear whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccella.imaging.atomic import atomic_path, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_makes_the_folder(tmp_path):
    target = tmp_path / "a" / "b" / "x.bin"
    write_bytes(target, b"\x00\x01")
    assert target.read_bytes() == b"\x00\x01"
    assert names(target.parent) == ["x.bin"]


def test_the_temporary_name_is_hidden_and_beside_the_target(tmp_path):
    with atomic_path(tmp_path / "x.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".x.nii.gz.") and temporary.name.endswith(".part")
        temporary.write_bytes(b"new")
        assert not (tmp_path / "x.nii.gz").exists()
    assert (tmp_path / "x.nii.gz").read_bytes() == b"new"


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "x") as one, atomic_path(tmp_path / "x") as other:
        assert one != other
        one.write_bytes(b"1")
        other.write_bytes(b"2")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        pass
    assert names(tmp_path) == []


def test_a_killed_process_leaves_no_half_file(tmp_path):
    code = (
        "import os, signal, sys; from ccella.imaging.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as p:\n    p.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.bin")], check=False)
    (name,) = names(tmp_path)
    assert name.startswith(".x.bin.") and name.endswith(".part")


def test_a_folder_that_is_a_file_raises_os_error(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OSError):
        write_bytes(tmp_path / "file" / "x.bin", b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_raises_os_error(tmp_path):
    with pytest.raises(OSError), atomic_path(tmp_path / "x") as temporary:
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as file:
            file.write(b"x")
    assert names(tmp_path) == []


def test_json_is_strict_and_keeps_letters(tmp_path):
    write_json(tmp_path / "x.json", {"report": "Prostata, 12 mm²", "n": [1, None]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "mm²" in text and text.endswith("\n")
    assert json.loads(text) == {"report": "Prostata, 12 mm²", "n": [1, None]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "y.json", {"value": float("nan")})
    assert not (tmp_path / "y.json").exists()


def test_text_keeps_its_line_ends(tmp_path):
    write_text(tmp_path / "x.txt", "a\r\nb\n")
    assert (tmp_path / "x.txt").read_bytes() == b"a\r\nb\n"


def test_a_name_near_the_limit_is_written(tmp_path):
    write_bytes(tmp_path / ("x" * 250), b"x")
    assert names(tmp_path) == ["x" * 250]

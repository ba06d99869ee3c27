"""Help, version, unknown commands and options, exit codes and streams of the program as a whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccella import __version__
from ccella.cli.main import COMMANDS, run
from ccella.zoo.registry import list_cards

GROUPS = {"train": ["autoencoder", "denoiser", "text-encoder"], "zoo": ["list", "show"]}
PATHS = [[]] + [[name] for name in COMMANDS] + [[name, sub] for name, subs in GROUPS.items() for sub in subs]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: {' '.join(['ccella', *path])} ")
    assert err == ""


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"ccella {__version__}\n"


def test_no_command_is_wrong_usage_and_prints_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: ccella ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smple"], "Did you mean sample?"),
        (["sample", "--promt", "x"], "Did you mean --prompt?"),
        (["decode", "x", "-o", "y", "--presicion", "fp32"], "Did you mean --precision?"),
        (["sample", "--prompt", "x"], "Missing option '-o' / '--output'"),
        (["sample", "-o", "x"], "Give --prompt, or --from"),
        (["zoo", "show"], "Missing argument 'NAME'"),
        (["sample", "--prompt", "x", "-o", "y", "--class", "2"], "'2' is not one of '0', '1'"),
        (["sample", "--prompt", "x", "-o", "y", "--spacing", "1,2"], "'1,2' is not 3 positive numbers"),
        (["sample", "--prompt", "x", "-o", "y", "--spacing", "1,2,-3"], "'1,2,-3' is not 3 positive numbers"),
        (["sample", "--prompt", "x", "-o", "y", "--spacing", "1,nan,3"], "'1,nan,3' is not 3 positive numbers"),
        (["sample", "--prompt", "x", "-o", "y", "--seed", "4-2"], "Seed range '4-2' runs backwards"),
        (
            ["sample", "--prompt", "x", "-o", "y", "--seed", "-1"],
            "Seed '-1' in '-1' is neither a whole number nor a range",
        ),
        (["sample", "--prompt", "x", "-o", "y", "--shard", "3/2"], "Shard 3/2 does not exist"),
        (["sample", "--prompt", "x", "-o", "y", "--shard", "half"], "Shard 'half' is not of the form i/n"),
        (["sample", "--prompt", "x", "-o", "y", "--device", "gpu"], "'gpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        (["sample", "--prompt", "x", "-o", "y", "--batch-size", "0"], "'0' is not a number of at least 1, nor auto"),
        (["phantom", "-n", "0", "-o", "x"], "0 is not in the range 1<=x<=1000000"),
        (["sample", "--prompt", "x", "-o", ""], "An argument is empty"),
        (["phantom", "-n", "2", "-o", "x", "--shape", "8,8,1.5"], "'8,8,1.5' is not 3 positive whole numbers"),
    ],
)
def test_wrong_usage_gets_a_sentence_and_a_remedy(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  ")
    assert list(tmp_path.iterdir()) == []


def test_unknown_model_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "show", "ccella-pp/phantm"]) == 2
    err = capsys.readouterr().err
    assert "There is no model 'ccella-pp/phantm'." in err
    assert "Did you mean ccella-pp/phantom?" in err


def test_model_folder_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "show", "./nowhere"]) == 2
    assert "nowhere/card.toml does not exist" in capsys.readouterr().err


def test_zoo_list_as_rows_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert run(["zoo", "list", "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [each["id"] for each in objects]
    assert {"ccella", "ccella-pp", "ccella-pp/phantom"} <= {each["id"] for each in objects}
    full = next(each for each in objects if each["id"] == "ccella-pp")
    assert full["channels"] == ["t2w", "hbv", "adc"]
    assert full["shape"] == [256, 256, 128]


def test_zoo_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "show", "ccella-pp"]) == 0
    out = capsys.readouterr().out
    assert "256 x 256 x 128 voxels of 0.5 x 0.5 x 0.5 mm" in out
    assert "adc [1e-6 mm2/s]" in out
    assert "preset fast:  dpmsolver++, 20 steps, guidance 1 (fidelity not measured)" in out
    assert run(["zoo", "show", "ccella-pp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["schedule"]["train_timesteps"] == 1000


@pytest.mark.parametrize("name", [card.id for card in list_cards()])
def test_zoo_show_shows_every_model_of_the_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "show", name, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["id"] == document["card"]["id"] == name
    assert run(["zoo", "show", name]) == 0
    out, err = capsys.readouterr()
    lines = dict(re.split(r": +", line, maxsplit=1) for line in out.splitlines())
    assert (lines["model"], err) == (name, "")
    assert ("sampler" in lines, "schedule" in lines) == ("sampler" in document["card"], "schedule" in document["card"])
    assert set(document["card"]["parts"]) <= set(lines)


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCELLA_DEBUG", "1")
    assert run(["zoo", "show", "nothing-like-it"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("CCELLA_DEBUG", "0")
    assert run(["zoo", "show", "nothing-like-it"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ccella.cli.main", "zoo", "list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == b""


def test_interruption_exits_with_130(tmp_path: Path) -> None:
    # Where the tests run in the background SIGINT is ignored, and children inherit that.
    program = (
        "import signal, ccella.cli.main as m; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"raise SystemExit(m.run(['sample', '--prompt', '-', '-o', {str(tmp_path / 'x')!r}]))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # It waits for standard input once it has taken all of a write that no pipe can hold.
        process.stdin.write(b" " * 1_000_000)
        process.stdin.flush()
        while process.poll() is None:
            # A signal that comes between two reads is noticed after the second one only: repeat it.
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == b""
    assert err.decode().strip().startswith("error: Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are bytes elsewhere")
@pytest.mark.parametrize("word", ["\u00f6ut".encode(), b"\xf6ut"])
def test_an_argument_that_the_locale_cannot_read(word: bytes) -> None:
    """As UTF-8 where the locale is ASCII, or as Latin-1 anywhere: refused before anything is made."""
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable.encode(), b"-m", b"ccella.cli.main", b"phantom", b"-n", b"1", b"-o", word]
    done = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"locale cannot read" in done.stderr and b"LC_ALL=C.UTF-8" in done.stderr

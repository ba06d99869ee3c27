"""`evaluate --config`: a file's options, beneath those of the command line; and predictions from a pipe."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from ccella.cli.main import run as ccella


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [f"e{n},p{n},{0.3 + 0.4 * (n % 2) - 0.005 * n},{n % 2}" for n in range(40)]
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["id,patient_id,probability,label", *rows]) + "\n", encoding="utf-8")
    return path


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "options.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_file_gives_options_and_the_command_line_overrules_it(table: Path, tmp_path: Path, capsys: Any) -> None:
    config = write(tmp_path, "[predictions]\nthreshold = 0.25\nseed = 7\nrepeats = 100\n[images]\nseed = 1\n")
    assert ccella(["evaluate", "predictions", str(table), "--config", config, "--seed", "3", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["threshold"], found["seed"], found["bootstrap"]["repeats"]) == (0.25, 3, 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("treshold = 0.5\n", ("unknown option treshold", "Did you mean threshold?")),
        ("json = true\n", ("unknown option json", "There are: ")),
        ("[prediction]\nseed = 1\n", ("unknown table [prediction]", "Did you mean predictions?")),
        ("[images]\nseed = 1\n", ("has no table [predictions]", "It has: images.")),
        ("repeats = 5\n[predictions]\nseed = 1\n", ("repeats stands beside a table",)),
        ("[predictions]\nseed = true\n", ("seed is True",)),
        ("seed = 1.5\n", ("'--seed'", "1.5")),
        ("repeats = 5\n", ("'--repeats'", "5")),
        ("seed =\n", ("is not valid TOML",)),
    ],
)
def test_what_a_file_may_not_say(table: Path, tmp_path: Path, capsys: Any, text: str, words: tuple[str, ...]) -> None:
    assert ccella(["evaluate", "predictions", str(table), "--config", write(tmp_path, text)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_required_options_and_lists_may_stand_in_the_file(tmp_path: Path, capsys: Any) -> None:
    config = write(tmp_path, f'real = "{tmp_path}/nothing"\nsynthetic = "s"\nsequences = ["t2w", "adc"]\n')
    assert ccella(["evaluate", "images", "--config", config, "--device", "cpu", "-q"]) == 2
    assert "nothing does not exist" in capsys.readouterr().err
    assert ccella(["evaluate", "images", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_predictions_come_from_the_pipe_of_classify(table: Path, capsys: Any, monkeypatch: Any) -> None:
    lines = [json.dumps({"kind": "prediction", "id": f"e{n}", "path": str(table)}) for n in range(40)]
    words = ["evaluate", "predictions", "-", "--repeats", "100", "--json", "-q"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    assert ccella(words) == 0
    found = json.loads(capsys.readouterr().out)["predictions"][0]
    assert (found["source"], found["exams"]) == (str(table), 40)
    other = json.dumps({"kind": "prediction", "id": "x", "path": "q.csv"})
    for text, message in (
        ("", "has no predictions"),
        ("{}", "line 1 is not a prediction"),
        ("e0,0.5", "line 1 is not JSON"),
        (f"{lines[0]}\n{other}", "speaks of 2 tables"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert ccella(words) == 2
        assert message in capsys.readouterr().err

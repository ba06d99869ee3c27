"""Standard output: rows, tables and JSON Lines."""

import io
import json
from pathlib import Path

import pytest

from ccella.cli.output import Output, print_records
from ccella.cli.progress import Progress
from ccella.zoo.record import Record


def silent() -> Progress:
    return Progress("making", "items", stream=io.StringIO())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def volume(item: str, channel: str, **data: object) -> Record:
    return Record(item, "volume", Path("out") / item / f"{item}_{channel}.nii.gz", {"channel": channel, **data})


RECORDS = [
    volume("a", "t2w", class_probability=0.25, seed=0),
    volume("a", "adc", class_probability=0.25, seed=0),
    volume("b", "t2w", class_probability=0.75, seed=3),
]


def test_json_is_one_record_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_records(RECORDS, silent(), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [record.to_json() for record in RECORDS]
    assert lines[0]["path"] == "out/a/a_t2w.nii.gz"


def test_json_lines_are_flushed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    flushed = []
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue().count("\n")))
    monkeypatch.setattr("sys.stdout", stream)
    print_records(RECORDS, silent(), as_json=True)
    assert flushed == [1, 2, 3]


def test_rows_are_one_per_item_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    print_records(RECORDS, silent(), as_json=False)
    assert capsys.readouterr().out == "a\tt2w adc\t0\t0.250\tout/a\nb\tt2w\t3\t0.750\tout/b\n"


def test_a_row_comes_as_soon_as_its_item_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def watch():  # type: ignore[no-untyped-def]
        for channel in ("t2w", "adc"):
            yield volume("a", channel, channels=["t2w", "adc"])
        assert capsys.readouterr().out == "a\tt2w adc\t\t\tout/a\n"
        yield Record("b", "latent", Path("out/b/b_latent.safetensors"), {"channels": ["t2w", "adc"]})
        assert capsys.readouterr().out == "b\tlatent\t\t\tout/b\n"

    print_records(watch(), silent(), as_json=False)


def test_a_terminal_gets_a_table_even_when_the_stage_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "dumb")

    def fail_after_one():  # type: ignore[no-untyped-def]
        yield RECORDS[0]
        yield RECORDS[2]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        print_records(fail_after_one(), silent(), as_json=False)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["id", "made", "seed", "p(class", "1)", "folder"]
    assert lines[1].split() == ["a", "t2w", "0", "0.250", "out/a"]


def test_values_are_not_read_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    with Output("unit", as_json=False) as output:
        output.add_row("[bold]x[/bold]")
    assert "[bold]x[/bold]" in stream.getvalue()


def test_not_a_number_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output("x", as_json=True).add_object({"x": float("nan")})

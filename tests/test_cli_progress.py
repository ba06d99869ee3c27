"""Progress lines: every 10 % or 30 s, and none under -q."""

import io

import click
import pytest

from ccella.cli.notes import say, set_verbosity
from ccella.cli.progress import Progress, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_through(total: int, seconds_each: float, *, known: bool = True) -> list[str]:
    clock, stream = Clock(), io.StringIO()
    with Progress("sampling", "exams", stream=stream, clock=clock) as progress:
        for done in range(1, total + 1):
            clock.now += seconds_each
            progress.update(done, total if known else None)
    return stream.getvalue().splitlines()


def test_one_line_every_tenth() -> None:
    lines = run_through(1000, 0.01)
    assert [line.split(":")[1].split(" of")[0].strip() for line in lines] == [str(n) for n in range(100, 1001, 100)]


def test_a_slow_item_is_told_after_half_a_minute() -> None:
    lines = run_through(100, 15.0)[:2]
    assert lines[0] == "sampling: 2 of 100 exams, 15.0 s each, 24:30 left"
    assert lines[1].startswith("sampling: 4 of 100 exams")


def test_an_unknown_total_is_told_every_half_minute() -> None:
    assert run_through(6, 10.0, known=False) == [
        "sampling: 3 exams, 10.0 s each",
        "sampling: 6 exams, 10.0 s each",
    ]


def test_the_last_line_is_the_whole() -> None:
    assert run_through(3, 1.0)[-1] == "sampling: 3 of 3 exams, 1.0 exams/s"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with click.Context(click.Command("x")):
        set_verbosity(-1)
        say("a note")
        with Progress("sampling", "exams", stream=stream) as progress:
            progress.update(1, 1)
    assert stream.getvalue() == ""
    assert capsys.readouterr().err == ""


def test_follow_passes_items_through() -> None:
    stream = io.StringIO()
    with Progress("x", "items", stream=stream) as progress:
        assert list(progress.follow("abc", 3)) == ["a", "b", "c"]
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text

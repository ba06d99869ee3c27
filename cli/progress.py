"""Progress on standard error: a bar on a terminal, else a plain line every 10 % or 30 s, and nothing under `-q`."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeVar

from .notes import verbosity

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

Item = TypeVar("Item")

LINE_SECONDS = 30.0


class Progress:
    """How far a command has come.

    Args:
        title: What is being done, such as `sampling`.
        unit: What is counted, such as `exams`.
        stream: Where to write; standard error when None.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._quiet = verbosity() < 0
        self._start = clock()
        self._said_at = self._start
        self._said_tenths = 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Progress":
        if not self._quiet and self._stream.isatty():
            self._bar = _make_bar(self._stream, self.unit)
            self._task = self._bar.add_task(self.title, total=None, detail="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, total: float | None = None, detail: str = "") -> None:
        """Says that `done` of `total` units are done; `total` is None where it is not known."""
        if self._quiet:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, detail=detail)
            return
        now = self._clock()
        share = done / total if total else 0.0
        # A hair is added so that 0.3 counts as the third tenth.
        tenths = int(share * 10 + 1e-9)
        if tenths > self._said_tenths or now - self._said_at >= LINE_SECONDS:
            self._said_at = now
            self._said_tenths = tenths
            self._stream.write(self._line(done, total, now - self._start, detail) + "\n")
            self._stream.flush()

    def follow(self, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """Passes items through and counts them."""
        for done, item in enumerate(items, 1):
            yield item
            self.update(done, total)

    def _line(self, done: float, total: float | None, seconds: float, detail: str) -> str:
        rate = done / seconds if seconds > 0 else 0.0
        count = f"{int(done)} {self.unit}" if total is None else f"{int(done)} of {int(total)} {self.unit}"
        line = f"{self.title}: {count}, {_format_rate(rate, self.unit)}"
        if total is not None and rate > 0 and done < total:
            line += f", {format_duration((total - done) / rate)} left"
        return f"{line}, {detail}" if detail else line


def format_duration(seconds: float) -> str:
    """Seconds as `h:mm:ss` or `m:ss`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def _format_rate(rate: float, unit: str) -> str:
    """A rate in the direction that gives a number above one."""
    if rate <= 0:
        return f"0 {unit}/s"
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def _make_bar(stream: TextIO, unit: str) -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
        # Results go to the pipe, not to the console of the bar.
        redirect_stdout=False,
    )

"""What the commands of the stages share: choosing what executes a model, and reading records from standard input."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.record import Record, parse_record
from .errors import one_line
from .notes import say
from .progress import Progress

if TYPE_CHECKING:
    from ..export.runtimes import TorchRuntime


def announce_runtime(card: Card, *, runtime: str, device: str, precision: str) -> "TorchRuntime":
    """Chooses what executes a model, and says what `auto` came to."""
    from ..export.runtimes import choose_runtime

    chosen = choose_runtime(runtime, card, device=device, precision=precision)
    if "auto" in (runtime, device, precision):
        say(f"Executing with {chosen.name} on {chosen.device} in {chosen.precision}.")
    return chosen


def count_items(progress: Progress, total: int | None) -> Callable[[str, Exception | None], None]:
    """A callback for a stage that counts items, and names each that failed at once."""
    done = 0

    def on_item(item_id: str, error: Exception | None) -> None:
        nonlocal done
        done += 1
        if error is not None:
            say(f"{item_id} failed: {one_line(str(error))}")
        progress.update(done, total)

    return on_item


def read_stdin_records(hint: str) -> Iterator[Record]:
    """The records that another command prints with `--json`, as they arrive on standard input.

    Args:
        hint: What to pipe in, for messages.

    Raises:
        InputError: A line is not a record, or there is none.
    """
    number = 0
    for number, line in enumerate(sys.stdin, 1):
        try:
            yield parse_record(line, base=Path(), source=f"Standard input, line {number},")
        except ValueError as error:
            raise InputError(one_line(str(error)), hint) from error
    if number == 0:
        raise InputError("Standard input has no records.", hint)

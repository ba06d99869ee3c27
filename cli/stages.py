"""What the commands of the stages share: choosing what executes a model, and reading records from standard input."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.record import Record, parse_record
from .errors import one_line
from .notes import say
from .progress import Progress

if TYPE_CHECKING:
    from ..export.runtimes import Runtime
    from ..pipeline.run_folder import RunFolder


def announce_runtime(
    card: Card, *, runtime: str, device: str, precision: str, graphs: Sequence[str] | None = None,
    batch_size: int = 1, guidance_scale: float = 1.0,
) -> "Runtime":  # fmt: skip
    """Chooses what executes a model, and says what `auto` came to; arguments as `export.runtimes.choose_runtime`."""
    from ..export.devices import bf16_warning
    from ..export.runtimes import choose_runtime

    chosen = choose_runtime(
        runtime, card, device=device, precision=precision, graphs=graphs, batch_size=batch_size,
        guidance_scale=guidance_scale, say=say,
    )  # fmt: skip
    if "auto" in (runtime, device, precision):
        provider = f" ({chosen.details['provider']})" if "provider" in chosen.details else ""
        say(f"Executing with {chosen.name}{provider} on {chosen.device} in {chosen.precision}.")
    if chosen.name == "torch" and chosen.precision == "bf16" and (warning := bf16_warning(chosen.device)) is not None:
        say(warning)
    return chosen


def require_weights(card: Card, *parts: str) -> None:
    """Makes sure that parts can be loaded before anything is written; errors as `zoo.loading.part_paths`."""
    from ..zoo.loading import part_paths

    for part in parts:
        part_paths(card, part)


def say_preview(run: "RunFolder") -> None:
    """Says where the preview of a run's images lies, if it made one."""
    path = run.named("preview.png")
    if path.is_file():
        say(f"Preview: {path}")


class ItemCount:
    """Counts the items of a stage, and names each that failed at once.

    Args:
        progress: Where the count goes.
        total: Number of items; None where it is not known.
    """

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def finish(self, item_id: str, error: Exception | None) -> None:
        """Takes note of an item that is through."""
        self._done += 1
        if error is not None:
            say(f"{item_id} failed: {one_line(str(error))}")
        self._progress.update(self._done, self._total)

    def advance(self, ids: Sequence[str], step: int, steps: int) -> None:
        """Takes note of a step of a batch. Decoding follows the last one: only files make an item done."""
        self._progress.update(self._done + len(ids) * step / (steps + 1), self._total, f"step {step} of {steps}")


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

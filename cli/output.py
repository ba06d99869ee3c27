"""Standard output: results and nothing else. JSON Lines with `--json`, else a table on a terminal or rows with tabs."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from types import TracebackType

from ..zoo.record import Record
from .progress import Progress


class Output:
    """The results of one command.

    On a terminal the rows become one table when the command ends, however it ends. Elsewhere each row is written at
    once, its cells separated by tabs; with `as_json` each result is one line of JSON. A reader downstream can start.

    Args:
        columns: Headings of the table.
        as_json: Whether `--json` was given.
    """

    def __init__(self, *columns: str, as_json: bool) -> None:
        self.columns = columns
        self.as_json = as_json
        self._rows: list[list[str]] = []

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows:
            self._print_table()

    def add_object(self, value: Mapping[str, object]) -> None:
        """Writes one result as a line of JSON."""
        write_line(json.dumps(value, ensure_ascii=False, allow_nan=False))

    def add_row(self, *cells: object) -> None:
        """Writes one row for a person; None is an empty cell."""
        row = ["" if cell is None else str(cell) for cell in cells]
        if sys.stdout.isatty():
            self._rows.append(row)
        else:
            write_line("\t".join(row))

    def _print_table(self) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self._rows:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)


def write_line(text: str) -> None:
    """Writes one line to standard output and flushes it, so that the next program in a pipe has it at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_records(records: Iterable[Record], progress: Progress, *, as_json: bool) -> None:
    """Consumes a stage and prints what it made.

    Args:
        records: The stage's records; those of one item follow one another.
        progress: Shown meanwhile; gone when the table is printed.
        as_json: One JSON record per artefact; else one row per item, as soon as the item is whole.
    """
    # A bar and lines of results would overwrite each other on one terminal: there progress is plain lines too.
    shown = nullcontext() if as_json and sys.stdout.isatty() else progress
    with Output("id", "made", "seed", "p(class 1)", "folder", as_json=as_json) as output, shown:
        item: list[Record] = []
        try:
            for record in records:
                if as_json:
                    output.add_object(record.to_json())
                    continue
                if item and record.id != item[0].id:
                    _print_item(output, item)
                item.append(record)
                if record.kind != "volume" or len(item) == len(record.data.get("channels", ())):
                    _print_item(output, item)
        finally:
            # A stage that fails at its end has made what came before.
            _print_item(output, item)


def _print_item(output: Output, item: list[Record]) -> None:
    """Prints the row of an item and empties the list."""
    if not item:
        return
    first = item[0]
    made = " ".join(str(record.data.get("channel", record.kind)) for record in item)
    probability = first.data.get("class_probability")
    shown = f"{probability:.3f}" if isinstance(probability, float) else None
    output.add_row(first.id, made, first.data.get("seed"), shown, first.path.parent)
    item.clear()

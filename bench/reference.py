"""Writes docs/reference/ from the program itself: commands with their options, exit codes, the keys of records.

python bench/reference.py
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Made by `python bench/reference.py` from the program. Change the program, then run it again. -->\n"


def commands_page() -> str:
    """Every command with its arguments, options and defaults, as `--help` tells them."""
    from ccella.cli.main import ccella

    lines = [NOTE, "# Commands\n", _prose(ccella), ""]
    for path, command in _walk(ccella, ("ccella",)):
        context = click.Context(command, info_name=" ".join(path), max_content_width=10_000)
        lines.append(f"{'#' * min(len(path), 3)} `{' '.join(path)}`\n")
        if not isinstance(command, click.Group):
            words = " ".join(command.collect_usage_pieces(context))
            lines.append(f"    {' '.join(path)} {words}\n")
        lines.append(_prose(command) + "\n")
        options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
        # What click adds by itself differs with who asked first.
        told = [option.get_help_record(context) for option in options if "--help" not in option.opts]
        rows = [f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in told if record is not None]
        if rows and not isinstance(command, click.Group):
            lines += ["| option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands below a group, each followed by its own."""
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield (*path, name), inner
        yield from _walk(inner, (*path, name))


def _prose(command: click.Command) -> str:
    """A command's help as paragraphs; what follows an escape stands as it is."""
    parts = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(part.removeprefix("\b\n") if part.startswith("\b") else " ".join(part.split()) for part in parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def exit_codes_page() -> str:
    """The exit codes and their meaning, from the program's own help."""
    from ccella.cli.main import ccella

    told = re.search(r"Exit codes: (.*?)\.", ccella.epilog or "")
    assert told is not None
    rows = [entry.split(" ", 1) for entry in told[1].split(", ")]
    table = [f"| {code} | {meaning} |" for code, meaning in rows]
    return f"""{NOTE}
# Exit codes

An error is one sentence on standard error that names the thing and the value, and one line that says what to run or
change. `CCELLA_DEBUG=1` adds the traceback.

| code | meaning |
|---|---|
{chr(10).join(table)}
"""


def records_page() -> str:
    """The keys of records."""
    from ccella.zoo.record import KINDS, SCHEMA
    from ccella.zoo.record_keys import RECORD_KEYS

    rows = [f"| `{name}` | {key.meaning} | {', '.join(key.writers)} |" for name, key in RECORD_KEYS.items()]
    return f"""{NOTE}
# Records

A record is one artefact and what is known of it. The same JSON object is the sidecar beside the artefact, its line in
`manifest.jsonl`, and the line that `--json` prints. `path` is relative to the run folder on disk, and can be opened
from the working directory on standard output.

Schema `{SCHEMA}`; kinds: {", ".join(f"`{kind}`" for kind in KINDS)}.

| key | meaning | written by |
|---|---|---|
{chr(10).join(rows)}
"""


def make_pages() -> dict[str, str]:
    """Text of every page by file name."""
    return {"commands.md": commands_page(), "exit-codes.md": exit_codes_page(), "records.md": records_page()}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in make_pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name, file=sys.stderr)


if __name__ == "__main__":
    main()

"""`--config FILE.toml`: options of a command from a file, beneath those of the command line."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ..imaging.errors import InputError
from .options import Command


def config_option(command: Command) -> Command:
    """`--config` of a command in a group: every option of the command that takes a value may stand in the file."""
    return click.option(
        "--config", metavar="FILE.toml", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
        callback=_take_options,
        help="Options of this command from a file, plain or under its name as a table; the command line overrules it.",
    )(command)  # fmt: skip


def _take_options(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes the file's values the defaults of the command at hand."""
    if path is None:
        return
    table = _find_table(path, ctx)
    options = {
        option.opts[-1].removeprefix("--"): option.name
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.expose_value and not option.is_flag
    }
    values = {}
    for key, value in table.items():
        if key not in options:
            raise InputError(f"{path}: unknown option {key}.", _hint(key, options))
        values[str(options[key])] = _as_text(value, f"{path}: {key}")
    ctx.default_map = values


def _find_table(path: Path, ctx: click.Context) -> Mapping[str, Any]:
    """The command's table; the whole file where it has no tables."""
    from ..zoo.tables import read_user_toml

    document = read_user_toml(path, "Config file", "Check --config.")
    if not any(isinstance(value, Mapping) for value in document.values()):
        return document
    group = ctx.parent.command if ctx.parent is not None else None
    known = list(group.commands) if isinstance(group, click.Group) else []
    for key, value in document.items():
        if not isinstance(value, Mapping):
            raise InputError(f"{path}: {key} stands beside a table.", "Put it inside one, or leave out the tables.")
        if key not in known:
            raise InputError(f"{path} has an unknown table [{key}].", _hint(key, known))
    name = str(ctx.command.name)
    if name not in document:
        raise InputError(f"{path} has no table [{name}].", f"It has: {', '.join(document)}.")
    table: Mapping[str, Any] = document[name]
    return table


def _hint(key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."


def _as_text(value: Any, place: str) -> str:
    """A value as the command line would give it, which is then checked as if it came from there."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        raise InputError(f"{place} is {value!r}.", "Give a string, a number, or an array of them.")
    return ",".join(map(str, parts))

"""Typed reading of TOML tables: every error names the file, the key and the value."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from .errors import CardError


def read_user_toml(path: Path, title: str, remedy: str) -> dict[str, Any]:
    """A TOML file that the user names, such as a config file.

    Args:
        path: The file.
        title: What it is, for messages.
        remedy: What to do where it cannot be read.

    Raises:
        InputError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{title} {path} cannot be read: {error.strerror}.", remedy) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{title} {path} is not valid TOML: {error}.", "Correct the file.") from error


class Table:
    """One TOML table with the place it came from.

    Args:
        data: The parsed table.
        file: The file it was read from, for messages.
        prefix: Dotted key of this table inside the file.
    """

    def __init__(self, data: Mapping[str, Any], file: Path, prefix: str = "") -> None:
        self.data = data
        self.file = file
        self.prefix = prefix

    def key(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix else name

    def fail(self, name: str, expected: str, remedy: str = "Correct the card.") -> CardError:
        value = repr(self.data[name]) if name in self.data else "missing"
        return CardError(f"{self.file}: {self.key(name)} is {value}; expected {expected}.", remedy)

    def allow(self, *names: str) -> None:
        """Raises CardError for a key that is not among `names`, with the nearest known one."""
        for name in self.data:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {self.key(near[0])}?" if near else f"Known keys: {', '.join(names)}."
                raise CardError(f"{self.file}: unknown key {self.key(name)}.", hint)

    def table(self, name: str, default: Mapping[str, Any] | None = None) -> "Table":
        value = self.data.get(name, default)
        if not isinstance(value, Mapping):
            raise self.fail(name, "a table")
        return Table(value, self.file, self.key(name))

    def tables(self, name: str) -> list["Table"]:
        value = self.data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.fail(name, "an array of tables")
        return [Table(item, self.file, f"{self.key(name)}[{i}]") for i, item in enumerate(value)]

    def text(self, name: str, default: str | None = None) -> str:
        value = self.data.get(name, default)
        if not isinstance(value, str):
            raise self.fail(name, "a string")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self.fail(name, f"one of {', '.join(choices)}")
        return value

    def integer(self, name: str, default: int | None = None, minimum: int = 0) -> int:
        value = self.data.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.fail(name, f"a whole number of at least {minimum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.data.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.fail(name, "a number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self.data.get(name, default)
        if not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        value = self.data.get(name, default)
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise self.fail(name, "an array of whole numbers")
        return tuple(value)

    def numbers(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        value = self.data.get(name, default)
        if not isinstance(value, list | tuple) or not all(type(item) in (int, float) for item in value):
            raise self.fail(name, "an array of numbers")
        return tuple(float(item) for item in value)

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        value = self.data.get(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self.fail(name, "an array of strings")
        return tuple(value)

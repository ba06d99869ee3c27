"""Checks of training options: names, types and limits, with a message that says what to write instead."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from ..imaging.errors import InputError


def check_options(kind: type[Any], table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values of a table of options, each of the type and within the limits of its field.

    Args:
        kind: A dataclass whose fields are made by `config._option`.
        table: Values by option name.
        source: Where they are from, for messages.

    Raises:
        InputError: An option is unknown (the nearest known one is named), has the wrong type or is out of range.
    """
    known = {item.name: item for item in fields(kind)}
    hints = get_type_hints(kind)
    values = {}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The options are: {', '.join(sorted(known))}."
            raise InputError(f"Training option {name!r} in {source} is unknown.", hint)
        values[name] = _convert(name, value, hints[name], known[name].metadata, source)
    return values


def _convert(name: str, value: Any, wanted: Any, limits: Mapping[str, Any], source: str) -> Any:
    if get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"Training option {name} in {source} is {value!r}.", "Give an array.")
        return tuple(_convert(name, item, get_args(wanted)[0], limits, source) for item in value)
    if wanted is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise InputError(f"Training option {name} in {source} is {value!r}.", f"Give {words[wanted]}.")
    if limits["choices"] and re.sub(r"(?<=:)\d+$", "N", value) not in limits["choices"]:
        raise InputError(f"Training option {name} in {source} is {value!r}.", f"Choose {', '.join(limits['choices'])}.")
    minimum, above, maximum = limits["minimum"], limits["above"], limits["maximum"]
    low = (minimum is not None and not value >= minimum) or (above is not None and not value > above)
    if low or (maximum is not None and not value <= maximum):
        bounds = [f"at least {minimum}"] * (minimum is not None) + [f"above {above}"] * (above is not None)
        bounds += [f"at most {maximum}"] * (maximum is not None)
        raise InputError(f"Training option {name} in {source} is {value!r}.", f"Give a value {' and '.join(bounds)}.")
    return value

"""What must be equal between a run and its resumption, and what is said where it is not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..imaging.errors import InputError
from .config import LoopTraining, differing_options, plain_options

ALLOWED = ("data", "world_size", "options")
_NAMED = 5


@dataclass(frozen=True)
class Difference:
    """One way in which a resumption differs.

    Attributes:
        kind: `options`, `world_size`, `data`, `card` or another name of the task's identity.
        words: What differs, as a sentence.
    """

    kind: str
    words: str


def find_differences(state: Mapping[str, Any], present: Mapping[str, Any], options: LoopTraining) -> list[Difference]:
    """Compares the state of a checkpoint with the run that wants to go on from it.

    Args:
        state: Of the checkpoint; entries that an older version did not write are not compared.
        present: `identity`, `details` and `world` of the run, as they would be saved.
        options: Of the run.
    """
    differences = []
    old, new = state["options"], plain_options(options)
    defaults = plain_options(type(options)())
    names = differing_options(old, new, defaults)
    if names:
        pairs = [f"{name} = {({**defaults, **old}).get(name)!r}, this one {new.get(name)!r}" for name in names]
        differences.append(Difference("options", f"has {'; '.join(pairs)}"))
    world = state.get("world")
    if world is not None and world != present["world"]:
        differences.append(Difference("world_size", f"ran on {_world(world)}, this one on {_world(present['world'])}"))
    for name in sorted({*state["identity"], *present["identity"]}):
        if state["identity"].get(name) != present["identity"].get(name):
            change = _change(state.get("details", {}).get(name), present["details"].get(name))
            differences.append(Difference(name, f"was started with another {name}{change}"))
    return differences


def check_differences(
    differences: Sequence[Difference], allowed: Collection[str], folder: str, config: str
) -> list[str]:
    """Refuses what is not allowed to differ.

    Args:
        differences: As `find_differences` gives them.
        allowed: Kinds that may differ, of ALLOWED.
        folder: Of the run, for the message.
        config: The run's saved options, for the message.

    Returns:
        What differs and is allowed to, in words.

    Raises:
        InputError: Something else differs.
    """
    for difference in differences:
        if difference.kind in allowed:
            continue
        remedy = {
            "options": f"Resume with its own options (--config {config}), or add --allow-options.",
            "world_size": "Start as many processes, or add --allow-world-size; rounding will differ, nothing else.",
            "data": "Resume with the same data, add --allow-data, or choose another folder.",
        }.get(difference.kind, f"Resume with the same {difference.kind}, or choose another folder.")
        raise InputError(f"The run in {folder} {difference.words}.", remedy)
    return [f"{difference.kind}: {difference.words}" for difference in differences]


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as one, keys joined by dots and values as text, to be compared key by key."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _world(world: Mapping[str, Any]) -> str:
    count = world["processes"]
    return f"{count} process{'es' if count > 1 else ''}{' with sharded weights' if world['sharded'] else ''}"


def _change(old: Mapping[str, str] | None, new: Mapping[str, str] | None) -> str:
    """What was added, removed and changed between two tables, each by its first names."""
    if old is None or new is None:
        return ""
    changed = [f"{key} ({old[key]} -> {new[key]})" if len(old[key]) < 40 else key for key in sorted(old)
               if key in new and old[key] != new[key]]  # fmt: skip
    parts = {"added": sorted(set(new) - set(old)), "removed": sorted(set(old) - set(new)), "changed": changed}
    words = [f"{len(names)} {verb} ({_abridge(names)})" for verb, names in parts.items() if names]
    return ": " + ", ".join(words) if words else ""


def _abridge(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

"""One focal lesion of a phantom exam, and the checks that its record shares with the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, TypeVar

from ..errors import InputError

ZONES = ("PZ", "TZ")
SIDES = ("left", "right")
LEVELS = ("base", "mid", "apex")
SECTORS: Mapping[str, tuple[str, ...]] = {
    "PZ": ("posterolateral", "posteromedial", "anterior"),
    "TZ": ("anterior", "posterior"),
}

Value = TypeVar("Value")


def require_one_of(name: str, value: Value, allowed: tuple[Value, ...]) -> None:
    """Raise InputError unless the value is one of the allowed."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}.", f"Use one of {', '.join(repr(item) for item in allowed)}.")


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless the value is finite and within low..high."""
    if not isfinite(value) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}.", f"Give a number from {low:g} to {high:g}.")


def require_fields(kind: type, data: Mapping[str, Any]) -> None:
    """Raise InputError unless the data has exactly the fields of the dataclass."""
    names = {field.name for field in fields(kind)}
    if unknown := sorted(set(data) - names):
        raise InputError(f"{kind.__name__} has no field {unknown[0]!r}.", f"Known fields: {', '.join(sorted(names))}.")
    if missing := sorted(names - set(data)):
        raise InputError(f"{kind.__name__} lacks the field {missing[0]!r}.", "Write the record with to_dict().")


@dataclass(frozen=True)
class Lesion:
    """One focal lesion.

    Attributes:
        zone: `PZ` (peripheral) or `TZ` (transition).
        side: The patient's `left` or `right`.
        level: `base`, `mid` or `apex`.
        sector: `posterolateral`, `posteromedial` or `anterior` in the PZ; `anterior` or `posterior` in the TZ.
        diameter_mm: Greatest diameter, a whole number of millimetres.
        pirads: PI-RADS v2.1 category 3, 4 or 5.
        extension: Whether it extends beyond the prostate (PI-RADS 5 only).

    Raises:
        InputError: A field is outside its set, or size and category contradict PI-RADS v2.1.
    """

    zone: str
    side: str
    level: str
    sector: str
    diameter_mm: float
    pirads: int
    extension: bool = False

    def __post_init__(self) -> None:
        require_one_of("zone", self.zone, ZONES)
        require_one_of("side", self.side, SIDES)
        require_one_of("level", self.level, LEVELS)
        require_one_of("sector", self.sector, SECTORS[self.zone])
        require_range("diameter_mm", self.diameter_mm, 3, 60)
        if self.diameter_mm != round(self.diameter_mm):
            raise InputError(f"diameter_mm is {self.diameter_mm!r}.", "Give whole millimetres.")
        require_one_of("pirads", self.pirads, (3, 4, 5))
        if self.extension and self.pirads != 5:
            raise InputError(f"A PI-RADS {self.pirads} lesion has an extension.", "Extension makes a lesion PI-RADS 5.")
        large = self.diameter_mm >= 15
        if (self.pirads == 5 and not (large or self.extension)) or (self.pirads == 4 and large):
            raise InputError(
                f"A PI-RADS {self.pirads} lesion measures {self.diameter_mm:g} mm.",
                "PI-RADS 4 is below 15 mm; 5 is 15 mm or more, or extends beyond the prostate.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lesion:
        """Read what `to_dict` wrote; raises InputError on an unknown, missing or wrong field."""
        require_fields(cls, data)
        return cls(**data)


def lesion_rank(lesion: Lesion) -> tuple[int, float]:
    """Return the sort key that puts the index lesion first."""
    return -lesion.pirads, -lesion.diameter_mm


def invades_vesicles(lesion: Lesion) -> bool:
    """Return whether a lesion may invade the seminal vesicles: PI-RADS 5, peripheral zone, base."""
    return lesion.pirads == 5 and lesion.zone == "PZ" and lesion.level == "base"

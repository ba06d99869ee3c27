"""Maps between stored intensities and the [0, 1] that networks see, with a way back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import InputError

KINDS: dict[str, frozenset[str]] = {
    "percentile": frozenset({"kind", "lower", "upper", "output"}),
    "window": frozenset({"kind", "lower", "upper"}),
}


@dataclass(frozen=True)
class IntensityMap:
    """A clipped linear map onto [0, 1].

    Args:
        kind: `percentile`: the bounds are percentiles of each image; `window`: the bounds are fixed values.
        lower: Lower bound: percentile, or value in the channel's unit.
        upper: Upper bound, likewise.
        output: Values that 0 and 1 stand for when an image that was never measured (a generated one) is written.
    """

    kind: str
    lower: float
    upper: float
    output: tuple[float, float]

    def apply(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Maps stored values to [0, 1].

        Args:
            array: Values in the channel's unit, any shape, finite.

        Returns:
            The mapped array (float32, same shape, clipped to [0, 1]) and the bounds used, `{"lower": .., "upper": ..}`
            in the channel's unit, for `invert`.

        Raises:
            InputError: The two percentiles fall on one value, so that there is no contrast to map.
        """
        lower, upper = self.lower, self.upper
        if self.kind == "percentile":
            # float64 so that the same image gives the same bounds whatever type it was stored in.
            low, high = np.percentile(np.asarray(array, dtype=np.float64), [self.lower, self.upper])
            lower, upper = float(low), float(high)
            if not upper > lower:
                raise InputError(
                    f"The {self.lower:g} and {self.upper:g} percentiles are both {lower:g}: there is no contrast.",
                    "Check that the image is not nearly constant.",
                )
        scaled = (np.asarray(array, dtype=np.float32) - np.float32(lower)) / np.float32(upper - lower)
        return np.clip(scaled, 0.0, 1.0), {"lower": lower, "upper": upper}

    def invert(self, array: np.ndarray, params: Mapping[str, float] | None = None) -> np.ndarray:
        """Maps [0, 1] back to stored values.

        Args:
            array: Values in [0, 1], any shape; what lies outside is clipped, since no stored value maps there.
            params: Bounds from `apply`; None takes the declared output range.

        Returns:
            float32 array of the same shape in the channel's unit.
        """
        lower, upper = self.output if params is None else (float(params["lower"]), float(params["upper"]))
        unit = np.clip(np.asarray(array, dtype=np.float32), 0.0, 1.0)
        return unit * np.float32(upper - lower) + np.float32(lower)


def _number(config: Mapping[str, object], key: str) -> float:
    """Reads a finite number, or says which key is not one."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(
            f"Intensity map key {key!r} is {value!r}, which is not a finite number.", f"Set {key} to a number."
        )
    return float(value)


def _output(config: Mapping[str, object]) -> tuple[float, float]:
    """Reads the range that a percentile map writes for generated images."""
    value = config.get("output")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(
            f"Intensity map key 'output' is {value!r}, which is not a pair of numbers.", "Set output to e.g. [0, 1000]."
        )
    return _number({"output[0]": value[0]}, "output[0]"), _number({"output[1]": value[1]}, "output[1]")


def parse_intensity(config: Mapping[str, object]) -> IntensityMap:
    """Builds an intensity map from its table.

    Args:
        config: `{kind="percentile", lower=0.0, upper=99.5, output=[0, 1000]}` or
            `{kind="window", lower=0, upper=3000}`.

    Returns:
        The map. A window writes generated images in its own range.

    Raises:
        InputError: Unknown kind or key, a value that is no number, or bounds in the wrong order.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"Intensity map kind {kind!r} is unknown.", f"Use one of: {', '.join(KINDS)}.")
    unknown = sorted(set(config) - KINDS[kind])
    if unknown:
        raise InputError(
            f"Intensity map key {unknown[0]!r} is unknown for kind {kind!r}.",
            f"Use only: {', '.join(sorted(KINDS[kind]))}.",
        )
    lower, upper = _number(config, "lower"), _number(config, "upper")
    output = _output(config) if kind == "percentile" else (lower, upper)
    if kind == "percentile" and not 0 <= lower < upper <= 100:
        raise InputError(
            f"Intensity percentiles {lower:g}..{upper:g} are not an increasing pair within 0..100.",
            "Set lower and upper to e.g. 0 and 99.5.",
        )
    if not lower < upper or not output[0] < output[1]:
        raise InputError(
            f"Intensity bounds {lower:g}..{upper:g} (output {output[0]:g}..{output[1]:g}) do not increase.",
            "Set lower below upper.",
        )
    return IntensityMap(kind=kind, lower=lower, upper=upper, output=output)

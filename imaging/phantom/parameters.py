"""The phantom's physical parameters, read once from `phantom.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tissue:
    """Magnetic resonance properties of one tissue at 3 T."""

    pd: float
    t1_ms: float
    t2_ms: float
    adc_um2_s: float


@dataclass(frozen=True)
class LesionContrast:
    """Cancer of one PI-RADS category: (mean, standard deviation) over lesions, and how it is drawn."""

    adc_um2_s: tuple[float, float]
    t2_ms: tuple[float, float]
    tz_t2_ms: tuple[float, float]
    blend: float
    edge_mm: float


@dataclass(frozen=True)
class Acquisition:
    """How one institution acquires its exams; signals are relative to a proton density of 1."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    dwi_spacing_mm: tuple[float, float, float]
    t2_te_ms: float
    t2_tr_ms: float
    t2_gain: float
    t2_noise: float
    t2_point_spread_voxels: float
    dwi_te_ms: float
    dwi_tr_ms: float
    dwi_gain: float
    dwi_noise: float
    hbv_noise: float
    hbv_b_s_mm2: float
    adc_b_s_mm2: tuple[float, ...]
    adc_scale: float
    adc_signal_floor: tuple[float, float]
    fat_suppression: float
    bias_amplitude: float


@dataclass(frozen=True)
class Parameters:
    """Contents of `phantom.toml`. `tissues` keeps the file's order, which numbers the tissue maps."""

    tissues: Mapping[str, Tissue]
    lesions: Mapping[int, LesionContrast]
    institutions: Mapping[int, Acquisition]


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


@cache
def load_parameters() -> Parameters:
    """Reads `phantom.toml`; an unknown or missing key is a TypeError naming it."""
    path = Path(__file__).with_name("phantom.toml")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return Parameters(
        tissues={name: Tissue(**table) for name, table in data["tissues"].items()},
        lesions={int(key): LesionContrast(**_tuples(table)) for key, table in data["lesions"].items()},
        institutions={int(key): Acquisition(**_tuples(table)) for key, table in data["institutions"].items()},
    )

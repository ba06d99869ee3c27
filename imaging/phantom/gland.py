"""Shape of the prostate and its zones, as signed distances in millimetres.

The gland is an ellipsoid of the reported dimensions with a flat base, a concave posterior midline, a narrow anterior
side and low-order harmonics, bent by smooth random displacements. Zonal anatomy after McNeal
(Am J Surg Pathol 1988;12:619).
All coordinates are RAS millimetres relative to the gland's centre: x to the patient's right, y anterior, z superior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .fields import Array, Grid, SmoothField, centred_grid, draw_field, ramp
from .findings import Findings

_PLAN_SPACING_MM = 2.0


@dataclass(frozen=True)
class GlandShape:
    """Numbers that fix one gland. `surface` and `tz_surface` are the level sets with the right volumes."""

    centre_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]
    harmonics: tuple[float, float, float, float]
    margin_mm: float
    afs_mm: float
    tz_lean: float
    warp: tuple[SmoothField, SmoothField, SmoothField]
    warp_mm: float
    surface: float = 1.0
    tz_surface: float = 1.0


@dataclass(frozen=True)
class GlandMap:
    """One gland on a grid: `x`, `y`, `z` bent coordinates and signed distances (positive inside), all [x, y, z] in mm.

    `u`, `v`, `w` are the coordinates divided by the half axes.
    """

    x: Array
    y: Array
    z: Array
    u: Array
    v: Array
    w: Array
    gland: Array
    tz: Array
    cz: Array
    afs: Array


def draw_gland(rng: np.random.Generator, findings: Findings) -> GlandShape:
    """Draws the shape of the gland that `findings` measures; its volume is exact to about 2 %."""
    half = tuple(float(size) / 2 for size in findings.dimensions_mm)
    jitter = rng.uniform(-2.5, 2.5, 3)
    # Large glands grow upwards into the bladder and forwards; the rectum stays in the field of view.
    centre = (float(jitter[0]), float(jitter[1] + 6.0 - 0.1 * max(half[1] - 20.0, 0.0)), float(0.6 * jitter[2] - 5.0))
    harmonics = rng.normal(0.0, 0.035, 4)
    shape = GlandShape(
        centre_mm=centre,
        half_axes_mm=(half[0], half[1], half[2]),
        harmonics=(float(harmonics[0]), float(harmonics[1]), float(harmonics[2]), float(harmonics[3])),
        margin_mm=float(rng.uniform(7.0, 9.5)),
        afs_mm=float(rng.uniform(4.0, 7.0)),
        tz_lean=float(rng.normal(0.0, 0.06)),
        warp=(draw_field(rng, 18.0), draw_field(rng, 18.0), draw_field(rng, 18.0)),
        warp_mm=float(rng.uniform(0.7, 1.3)),
    )
    return _calibrate(shape, float(findings.volume_ml))


def plan_grid(shape: GlandShape) -> Grid:
    """A fixed 2 mm grid around the gland, so that what is planned on it does not depend on the image's grid."""
    size = [2 * int(np.ceil((half * 1.2 + 6.0) / _PLAN_SPACING_MM)) for half in shape.half_axes_mm]
    grid = centred_grid(size, (_PLAN_SPACING_MM,) * 3)
    axes = [axis + np.float32(mm) for axis, mm in zip((grid.x_mm, grid.y_mm, grid.z_mm), shape.centre_mm, strict=True)]
    return Grid(axes[0], axes[1], axes[2])


def bend(shape: GlandShape, grid: Grid) -> tuple[Array, Array, Array]:
    """Coordinates [x, y, z] of `grid` relative to the gland's centre after the smooth displacement."""
    x, y, z = (
        axis - np.float32(centre) + field.sample(grid) * np.float32(shape.warp_mm)
        for axis, centre, field in zip(grid.axes, shape.centre_mm, shape.warp, strict=True)
    )
    return x, y, z


def map_gland(shape: GlandShape, grid: Grid) -> GlandMap:
    """Signed distances of gland, transition zone, central zone and anterior stroma on `grid`."""
    a, b, c = shape.half_axes_mm
    x, y, z = bend(shape, grid)
    u, v, w = x / a, y / b, z / c
    rho, gradient = _gland_level(shape, u, v, w)
    gland = (shape.surface - rho) * rho / gradient
    tz = np.minimum(_tz_level_distance(shape, x, y, z), gland - _tz_margin(shape, v))
    afs = np.minimum(shape.afs_mm - gland, 0.44 * a - np.abs(x))
    afs = np.minimum(afs, np.minimum((v - 0.20) * b, (0.5 - w) * c))
    cz = 1.0 - np.sqrt((x / (0.42 * a)) ** 2 + ((v + 0.36) / 0.30) ** 2 + ((w - 0.76) / 0.40) ** 2)
    cz *= 0.36 * min(a, b, c)
    return GlandMap(x, y, z, u, v, w, gland, tz, np.minimum(cz, -tz), np.minimum(afs, gland))


def _gland_level(shape: GlandShape, u: Array, v: Array, w: Array) -> tuple[Array, Array]:
    """Level function (1 on the ellipsoid) and the length of its gradient times the level, per mm."""
    a, b, c = shape.half_axes_mm
    v = v + 0.12 * w  # the axis leans: the apex lies further anterior
    dent = 1.0 / (1.0 + 7.0 * u * u)
    vv = np.where(v < 0, v * (1.0 + 0.22 * dent * dent), v)
    uu = u * (1.0 + 0.17 * v)
    ww = np.where(w > 0, w * w * (0.45 + 0.55 * w * w), w * w)
    u2, v2 = uu * uu, vv * vv
    square = u2 + v2 + ww
    h = shape.harmonics
    wave = 1.0 + (h[0] * uu * vv + h[1] * uu * w + h[2] * vv * w + h[3] * (u2 - v2)) / (square + 0.1)
    gradient = np.sqrt(u2 / a**2 + v2 / b**2 + w * w / c**2 + 1e-6)
    return np.sqrt(square) * wave, gradient


def _tz_level(shape: GlandShape, x: Array, y: Array, z: Array) -> Array:
    """Level function of two lobes beside the urethra, larger towards the base."""
    a, b, c = shape.half_axes_mm
    lateral = np.abs(x - shape.tz_lean * a)
    lateral = np.maximum(lateral - 0.20 * a, 0.25 * (0.20 * a - lateral))
    return np.sqrt(
        (lateral / (0.52 * a)) ** 2 + ((y - 0.20 * b) / (0.62 * b)) ** 2 + ((z - 0.12 * c) / (0.80 * c)) ** 2
    )


def _tz_level_distance(shape: GlandShape, x: Array, y: Array, z: Array) -> Array:
    a, b, c = shape.half_axes_mm
    return (shape.tz_surface - _tz_level(shape, x, y, z)) * (0.62 * min(a, b, c))


def _tz_margin(shape: GlandShape, v: Array) -> Array:
    """Thickness in mm that the peripheral zone keeps: full behind, a rim in front."""
    return 1.2 + (shape.margin_mm - 1.2) * np.clip(0.55 - 1.1 * v, 0.0, 1.0)


def transition_fraction(volume_ml: float) -> float:
    """Share of the gland that is transition zone, what exceeds 12 mL + V / 4: 0.15 at 20 mL, 0.67 at 150 mL."""
    return max(0.12, 1.0 - (12.0 + 0.25 * volume_ml) / volume_ml)


def _calibrate(shape: GlandShape, volume_ml: float) -> GlandShape:
    """Sets the level sets so that gland and transition zone have their volumes on the planning grid."""
    a, b, c = shape.half_axes_mm
    grid = plan_grid(shape)
    voxel_ml = _PLAN_SPACING_MM**3 / 1000.0
    x, y, z = bend(shape, grid)
    v = y / b
    rho, gradient = _gland_level(shape, x / a, v, z / c)
    count = int(volume_ml / voxel_ml)
    surface = float(np.partition(rho.ravel(), count)[count])
    free = (surface - rho) * rho / gradient > _tz_margin(shape, v)
    level = np.sort(_tz_level(shape, x, y, z)[free])
    tz_count = min(int(transition_fraction(volume_ml) * count), len(level) - 1)
    return replace(shape, surface=surface, tz_surface=float(level[tz_count]))


def zone_fractions(gland: GlandMap, edge_mm: float) -> dict[str, Array]:
    """Soft zone masks [x, y, z] in 0..1 that sum to the gland's own mask ('gland'): PZ, TZ, CZ, AFS."""
    whole = ramp(gland.gland, edge_mm)
    afs = ramp(gland.afs, edge_mm + 1.2) * whole
    rest = whole - afs
    tz = ramp(gland.tz, edge_mm) * rest
    rest = rest - tz
    cz = ramp(gland.cz, edge_mm + 0.5) * rest
    return {"gland": whole, "AFS": afs, "TZ": tz, "CZ": cz, "PZ": rest - cz}

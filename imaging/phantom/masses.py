"""Where the lesions of the findings lie and what shape they have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import Array, Grid, SmoothField, draw_field, ramp
from .findings import Findings, Lesion
from .gland import GlandMap, GlandShape, map_gland, plan_grid, zone_fractions
from .parameters import load_parameters

_LEVEL_W = {"apex": -0.58, "mid": 0.0, "base": 0.52}  # of the half length, superior positive
_LEVEL_RANGE = {"apex": (-0.88, -0.36), "mid": (-0.28, 0.28), "base": (0.36, 0.82)}
_SECTOR_ANGLE = {"posteromedial": 30.0, "posterolateral": 58.0, "anterior": 98.0}  # degrees from the posterior midline
_SECTOR_V = {"anterior": 0.42, "posterior": -0.12}  # of the half anteroposterior size
_MIDLINE_MM = 2.0


@dataclass(frozen=True)
class Mass:
    """One lesion in space, in bent gland coordinates; `depth_mm` is its centre's distance below the capsule."""

    lesion: Lesion
    centre_mm: tuple[float, float, float]
    depth_mm: float
    half_axes_mm: tuple[float, float, float]
    edge_mm: float
    blend: float
    t2_ms: float
    adc_um2_s: float
    surface: SmoothField

    @property
    def sign(self) -> float:
        """+1 on the patient's right, where x grows, -1 on the left."""
        return 1.0 if self.lesion.side == "right" else -1.0


def draw_masses(rng: np.random.Generator, findings: Findings, shape: GlandShape) -> tuple[Mass, ...]:
    """Places every lesion in its zone, side, level and sector; order as in the findings."""
    grid = plan_grid(shape)
    gland = map_gland(shape, grid)
    zones = zone_fractions(gland, 1.0)
    masses: list[Mass] = []
    for lesion in findings.lesions:
        masses.append(_place(rng, lesion, gland, zones, shape, masses))
    return tuple(masses)


def _place(
    rng: np.random.Generator,
    lesion: Lesion,
    gland: GlandMap,
    zones: dict[str, Array],
    shape: GlandShape,
    others: list[Mass],
) -> Mass:
    contrast = load_parameters().lesions[lesion.pirads]
    where = _choose_centre(rng, lesion, gland, zones, shape, others)
    centre = (float(gland.x[where]), float(gland.y[where]), float(gland.z[where]))
    depth = float(gland.gland[where])
    half = _half_axes(lesion, depth, -float(gland.tz[where]), shape)
    if lesion.extension:
        depth = min(depth, 0.35 * half[1])
    return Mass(
        lesion=lesion,
        centre_mm=centre,
        depth_mm=depth,
        half_axes_mm=half,
        edge_mm=contrast.edge_mm,
        blend=contrast.blend,
        t2_ms=float(rng.normal(*(contrast.t2_ms if lesion.zone == "PZ" else contrast.tz_t2_ms))),
        adc_um2_s=float(np.clip(rng.normal(*contrast.adc_um2_s), 620.0, 960.0)),
        surface=draw_field(rng, 5.0),
    )


def _choose_centre(
    rng: np.random.Generator,
    lesion: Lesion,
    gland: GlandMap,
    zones: dict[str, Array],
    shape: GlandShape,
    others: list[Mass],
) -> tuple[int, int, int]:
    """Index of the planning voxel with the best score: in the zone, on the side, deep enough, near level and sector."""
    a, _b, _c = shape.half_axes_mm
    sign = 1.0 if lesion.side == "right" else -1.0
    radius = lesion.diameter_mm / 2
    lateral = sign * gland.x
    low, high = _LEVEL_RANGE[lesion.level]
    score = -((gland.w - _LEVEL_W[lesion.level]) ** 2) * 12.0
    score -= np.maximum(np.maximum(low - gland.w, gland.w - high), 0.0) * 60.0
    if lesion.zone == "PZ":
        angle = np.degrees(np.arctan2(gland.u * sign, -(gland.v + 0.12 * gland.w)))
        score -= ((angle - _SECTOR_ANGLE[lesion.sector]) / 16.0) ** 2
        room = np.minimum(gland.gland, -gland.tz)
        clear = min(0.5 * radius + _MIDLINE_MM, 0.3 * a)
    else:
        score -= ((gland.v - _SECTOR_V[lesion.sector]) / 0.22) ** 2
        room = np.minimum(gland.gland, gland.tz + 2.0)
        clear = min(0.85 * radius + _MIDLINE_MM, 0.42 * a)
    score += 1.2 * np.minimum(room, min(radius, 5.0))
    score -= 2.0 * np.maximum(max(clear, 6.0) - lateral, 0.0)
    for other in others:
        gap = np.sqrt(sum((p - q) ** 2 for p, q in zip((gland.x, gland.y, gland.z), other.centre_mm, strict=True)))
        score -= 1.5 * np.maximum(radius + other.lesion.diameter_mm / 2 + 3.0 - gap, 0.0)
    score -= 40.0 * (zones[lesion.zone] < 0.75) + 80.0 * (lateral < 5.0)
    score += rng.gumbel(0.0, 0.35, score.shape)
    index = np.unravel_index(int(np.argmax(score)), score.shape)
    return int(index[0]), int(index[1]), int(index[2])


def _half_axes(lesion: Lesion, depth_mm: float, tz_gap_mm: float, shape: GlandShape) -> tuple[float, float, float]:
    """Half axes (along the capsule or transverse, across it or anteroposterior, craniocaudal); the first is D/2."""
    radius = lesion.diameter_mm / 2
    length = float(np.clip(0.95 * radius, 3.8, 0.45 * shape.half_axes_mm[2]))
    if lesion.zone == "TZ":
        return radius, max(0.75 * radius, 3.5), length
    thickness = 0.5 * (depth_mm + tz_gap_mm)
    return radius, float(np.clip(thickness, max(0.55 * radius, 3.2), max(0.8 * radius, 3.4))), length


def mass_distance(mass: Mass, gland: GlandMap, grid: Grid) -> Array:
    """Signed distance [x, y, z] in mm to the surface of `mass`, positive inside, on the grid of `gland`.

    A lesion of the peripheral zone follows the capsule's curve; one of the transition zone is a lens.
    Neither crosses the midline.
    """
    cx, cy, cz = mass.centre_mm
    dx, dy, dz = gland.x - np.float32(cx), gland.y - np.float32(cy), gland.z - np.float32(cz)
    ra, rb, rc = mass.half_axes_mm
    if mass.lesion.zone == "PZ":
        normal = gland.gland - np.float32(mass.depth_mm)
        along = np.maximum(dx * dx + dy * dy - normal * normal, 0.0)
        level = np.sqrt(along / ra**2 + (normal / rb) ** 2 + (dz / rc) ** 2)
    else:
        level = np.sqrt((dx / ra) ** 2 + (dy / rb) ** 2 + (dz / rc) ** 2)
    level *= 1.0 + np.float32(0.05) * np.clip(mass.surface.sample(grid), -2.0, 2.0)
    distance = (1.0 - level) * np.float32((ra * rb * rc) ** (1 / 3))
    return np.minimum(distance, mass.sign * gland.x - 1.5)


def mass_mask(mass: Mass, gland: GlandMap, grid: Grid, edge_mm: float) -> tuple[Array, Array]:
    """Soft mask [x, y, z] in 0..1 and signed distance of `mass`; without extension it ends at the capsule."""
    distance = mass_distance(mass, gland, grid)
    if not mass.lesion.extension:
        distance = np.minimum(distance, gland.gland - 0.3)
    return ramp(distance, max(edge_mm, mass.edge_mm)), distance

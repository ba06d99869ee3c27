"""Nodules of benign hyperplasia and the benign changes that mimic cancer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import Array, Grid, SmoothField, draw_field, ramp
from .findings import Findings
from .gland import GlandMap, GlandShape, map_gland, plan_grid

_COUNT_PER_ML = {"none": 0.3, "mild": 0.7, "moderate": 0.8, "marked": 0.7}


@dataclass(frozen=True)
class Nodule:
    """A round nodule: `glandular` is its share of bright glandular tissue, the rest is dark stroma."""

    centre_mm: tuple[float, float, float]
    radius_mm: float
    flattening: float
    glandular: float
    rim: float


@dataclass(frozen=True)
class Texture:
    """Nodules and random fields that fill the zones of one gland."""

    nodules: tuple[Nodule, ...]
    coarse: SmoothField
    fine: SmoothField
    patches: SmoothField
    wedge_angle: float
    wedge_width: float


def draw_texture(rng: np.random.Generator, findings: Findings, shape: GlandShape) -> Texture:
    """Draws the nodules of the reported grade and the fields of the zones' texture."""
    return Texture(
        nodules=_draw_nodules(rng, findings, shape),
        coarse=draw_field(rng, 6.0),
        fine=draw_field(rng, 3.2, 24),
        patches=draw_field(rng, 7.0),
        wedge_angle=float(rng.uniform(38.0, 66.0)),
        wedge_width=float(rng.uniform(14.0, 22.0)),
    )


def _draw_nodules(rng: np.random.Generator, findings: Findings, shape: GlandShape) -> tuple[Nodule, ...]:
    grid = plan_grid(shape)
    gland = map_gland(shape, grid)
    inside = np.minimum(gland.tz, -gland.afs).ravel()
    places = np.flatnonzero(inside > 1.5)
    tz_ml = float((gland.tz > 0).sum()) * 0.008
    count = min(2 + int(rng.poisson(_COUNT_PER_ML[findings.bph] * tz_ml)), 44)
    nodules: list[Nodule] = []
    if not len(places):
        return ()
    largest = {"none": 4.5, "mild": 6.5, "moderate": 9.0, "marked": 13.0}[findings.bph]
    for _ in range(count):
        index = int(rng.choice(places))
        radius = float(min(2.2 + (largest - 2.2) * rng.beta(1.0, 1.4), inside[index] + 1.5))
        centre = (float(gland.x.ravel()[index]), float(gland.y.ravel()[index]), float(gland.z.ravel()[index]))
        kind = float(rng.beta(0.7, 0.9))
        nodule = Nodule(centre, radius, float(rng.uniform(0.85, 1.2)), 0.12 + 0.8 * kind, float(rng.uniform(0.35, 0.9)))
        if all(_apart(nodule, other) for other in nodules):
            nodules.append(nodule)
    return tuple(nodules)


def _apart(one: Nodule, other: Nodule) -> bool:
    gap = np.linalg.norm(np.subtract(one.centre_mm, other.centre_mm))
    return bool(gap > 0.85 * (one.radius_mm + other.radius_mm))


def transition_texture(texture: Texture, gland: GlandMap, grid: Grid, edge_mm: float) -> tuple[Array, Array]:
    """Shares of glandular tissue in the transition zone and of the nodules' fibrous rims, [x, y, z] in 0..1."""
    fine = texture.fine.sample(grid)
    glandular = np.clip(0.38 + 0.15 * texture.coarse.sample(grid) + 0.13 * fine, 0.05, 0.9)
    rims = np.zeros_like(glandular)
    half = np.float32(0.5)
    for nodule in texture.nodules:
        reach = nodule.radius_mm + 4.0
        # The bent coordinates differ from the grid's by a few millimetres at most, which the reach allows for.
        box = _box(gland, nodule.centre_mm, reach)
        dx, dy, dz = (
            axis[box] - np.float32(c) for axis, c in zip((gland.x, gland.y, gland.z), nodule.centre_mm, strict=True)
        )
        distance = nodule.radius_mm - np.sqrt(dx * dx + (dy * nodule.flattening) ** 2 + dz * dz)
        mask = ramp(distance, edge_mm)
        inner = np.clip(nodule.glandular + 0.16 * fine[box], 0.03, 0.98)
        glandular[box] += mask * (inner - glandular[box])
        rim = np.clip(1.0 - np.abs(distance - half) / np.float32(0.8 + 0.5 * edge_mm), 0.0, 1.0) * nodule.rim
        rims[box] = np.maximum(rims[box] * (1.0 - ramp(distance - 1.5, edge_mm)), rim)
    return glandular, rims


def _box(gland: GlandMap, centre_mm: tuple[float, float, float], reach_mm: float) -> tuple[slice, slice, slice]:
    middle = tuple(n // 2 for n in gland.x.shape)
    lines = (gland.x[:, middle[1], middle[2]], gland.y[middle[0], :, middle[2]], gland.z[middle[0], middle[1], :])
    slices = []
    for line, centre in zip(lines, centre_mm, strict=True):
        near = np.flatnonzero(np.abs(line - centre) < reach_mm + 1.0)
        slices.append(slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(0, 0))
    return slices[0], slices[1], slices[2]


def peripheral_texture(texture: Texture, findings: Findings, gland: GlandMap, grid: Grid) -> tuple[Array, Array]:
    """Share of inflamed and of haemorrhagic tissue in the peripheral zone, both [x, y, z] in 0..1."""
    patches = texture.patches.sample(grid)
    inflamed = np.clip(0.18 + 0.13 * texture.coarse.sample(grid) + 0.11 * texture.fine.sample(grid), 0.0, 0.5)
    if findings.prostatitis == "diffuse":
        inflamed += np.clip(0.50 + 0.14 * patches, 0.2, 0.75)
    elif findings.prostatitis is not None:
        side = 1.0 if findings.prostatitis == "right" else -1.0
        angle = np.degrees(np.arctan2(side * gland.u, -gland.v))
        wedge = np.clip(1.5 - np.abs(angle - texture.wedge_angle) / texture.wedge_width, 0.0, 1.0)
        inflamed += 0.65 * wedge * np.clip(1.6 - 1.6 * np.abs(gland.w), 0.0, 1.0)
    blood = np.zeros_like(patches)
    if findings.haemorrhage is not None:
        blood = np.clip(0.35 + 0.75 * patches, 0.0, 0.85)
        if findings.haemorrhage != "both":
            side = 1.0 if findings.haemorrhage == "right" else -1.0
            blood *= np.clip((side * gland.x) / 3.0, 0.0, 1.0)
    return np.minimum(inflamed, 0.85), blood

"""The organs around the prostate, as soft masks on a grid: seminal vesicles, bladder, rectum, muscles, bones, veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import Array, Grid, SmoothField, draw_field, ramp
from .findings import Findings
from .gland import GlandShape

_BLADDER_MM = {"full": (36.0, 27.0, 26.0), "partly filled": (28.0, 20.0, 14.0), "empty": (20.0, 13.0, 6.0)}
_BLADDER_WALL_MM = {"full": 2.5, "partly filled": 4.0, "empty": 5.5}
_RECTUM_MM = {"gas": (13.5, 11.5), "stool": (15.5, 13.0), "empty": (11.0, 4.0)}


@dataclass(frozen=True)
class Pelvis:
    """Numbers that fix the organs around one gland; lengths in mm, positions relative to the gland's centre."""

    findings: Findings
    shape: GlandShape
    bladder_mm: tuple[float, float, float]
    rectum_mm: tuple[float, float]
    rectum_x_mm: float
    obturator_mm: float
    obturator_thickness_mm: float
    pubis_gap_mm: float
    levator_mm: float
    vesicle_mm: tuple[float, float, float]
    vesicle_tilt: float
    organ: SmoothField
    tissue: SmoothField
    tubules: SmoothField
    veins: SmoothField


def draw_pelvis(rng: np.random.Generator, findings: Findings, shape: GlandShape) -> Pelvis:
    """Draws the organs that `findings` mentions (rectal content, bladder filling) and the ones around them."""
    scale = rng.uniform(0.88, 1.12, 5)
    bladder, rectum = _BLADDER_MM[findings.bladder], _RECTUM_MM[findings.rectum]
    a = shape.half_axes_mm[0]
    return Pelvis(
        findings=findings,
        shape=shape,
        bladder_mm=(bladder[0] * float(scale[0]), bladder[1] * float(scale[1]), bladder[2] * float(scale[2])),
        rectum_mm=(rectum[0] * float(scale[3]), rectum[1] * float(scale[4])),
        rectum_x_mm=float(rng.normal(0.0, 2.5)),
        obturator_mm=max(float(rng.uniform(30.0, 35.0)), a + 4.5),
        obturator_thickness_mm=float(rng.uniform(13.0, 18.0)),
        pubis_gap_mm=float(rng.uniform(5.0, 10.0)),
        levator_mm=float(rng.uniform(3.2, 5.0)),
        vesicle_mm=(float(rng.uniform(13.0, 17.0)), float(rng.uniform(4.5, 6.5)), float(rng.uniform(5.5, 8.0))),
        vesicle_tilt=float(rng.uniform(0.1, 0.5)),
        organ=draw_field(rng, 14.0),
        tissue=draw_field(rng, 6.0, 24),
        tubules=draw_field(rng, 3.6, 24),
        veins=draw_field(rng, 4.5, 24),
    )


@dataclass(frozen=True)
class Frame:
    """Bent coordinates [x, y, z] in mm, the random fields on the same grid, and the edge's half width in mm."""

    x: Array
    y: Array
    z: Array
    organ: Array
    tissue: Array
    edge_mm: float


def _ellipsoid(frame_axes: tuple[Array, Array, Array], half_mm: tuple[float, float, float]) -> Array:
    p, q, r = (axis / np.float32(half) for axis, half in zip(frame_axes, half_mm, strict=True))
    square = p * p + q * q + r * r
    gradient = np.sqrt((p / half_mm[0]) ** 2 + (q / half_mm[1]) ** 2 + (r / half_mm[2]) ** 2 + np.float32(1e-6))
    level = np.sqrt(square)
    return (1.0 - level) * level / gradient


def seminal_vesicles(pelvis: Pelvis, frame: Frame, grid: Grid) -> tuple[Array, Array]:
    """Mask of both vesicles and share of fluid inside them (tubules with walls), [x, y, z] in 0..1."""
    _a, b, c = pelvis.shape.half_axes_mm
    length, depth, height = pelvis.vesicle_mm
    lateral = np.abs(frame.x) - (length + 1.0)
    y = frame.y - (-0.66 * b - 1.0) + 0.12 * lateral
    z = frame.z - (0.92 * c + 0.45 * height) - pelvis.vesicle_tilt * lateral
    distance = _ellipsoid((lateral, y, z), (length, depth, height)) + 0.8 * frame.organ
    tubes = pelvis.tubules.sample(grid)
    fluid = np.clip(0.62 + 0.42 * tubes, 0.05, 1.0) * ramp(distance - 1.0, frame.edge_mm)
    return ramp(distance, frame.edge_mm), fluid


def bladder(pelvis: Pelvis, frame: Frame) -> tuple[Array, Array]:
    """Masks of the urine and of the whole bladder with its wall, [x, y, z] in 0..1."""
    _, b, c = pelvis.shape.half_axes_mm
    half = pelvis.bladder_mm
    wall = _BLADDER_WALL_MM[pelvis.findings.bladder]
    base = 0.88 * c + wall
    axes = (frame.x, frame.y - (0.20 * b + 0.25 * half[1]), frame.z - (base + 0.85 * half[2]))
    distance = _ellipsoid(axes, half) + 0.8 * frame.organ
    return ramp(distance, frame.edge_mm), ramp(distance + wall, frame.edge_mm)


def rectum(pelvis: Pelvis, frame: Frame) -> tuple[Array, Array]:
    """Signed distances in mm to the lumen and to the outer wall, [x, y, z]."""
    _, b, c = pelvis.shape.half_axes_mm
    rx, ry = pelvis.rectum_mm
    w = frame.z / np.float32(c)
    narrow = np.clip(0.5 + (w + 0.95) * 1.4, 0.0, 1.0)  # the anal canal below the apex
    half_x = 5.0 + (rx - 5.0) * narrow
    half_y = 3.0 + (ry - 3.0) * narrow
    wall = 3.2
    # The front wall follows the back of the gland, then the anal canal turns backwards.
    below = np.clip(-w, 0.0, 1.15)
    front = -b * (0.88 - 0.34 * below * below + 0.10 * np.clip(w, 0.0, 1.3)) - 1.0 - 9.0 * np.clip(-w - 1.0, 0.0, 1.0)
    x = frame.x - np.float32(pelvis.rectum_x_mm) - 1.6 * frame.organ
    y = frame.y - (front - wall - half_y)
    if pelvis.findings.rectum == "empty":
        y = y + 0.012 * x * x - 1.0  # a collapsed lumen curves around the prostate
    p, q = x / half_x, y / half_y
    level = np.sqrt(p * p + q * q)
    gradient = np.sqrt((p / half_x) ** 2 + (q / half_y) ** 2 + np.float32(1e-6))
    lumen = (1.0 - level) * level / gradient
    return lumen, lumen + np.float32(wall)


def levator(pelvis: Pelvis, frame: Frame) -> Array:
    """Mask of the levator ani: a funnel beside the gland that slings behind the rectum, [x, y, z] in 0..1."""
    a, b, c = pelvis.shape.half_axes_mm
    w = frame.z / np.float32(c)
    back = 0.8 * b + 2.0 * max(pelvis.rectum_mm[1], 6.0) + 8.0
    middle = 0.5 * (0.35 * b - back)
    half_y = 0.5 * (0.35 * b + back) + 3.0
    wide = np.float32(a) * np.sqrt(np.clip(1.0 - 0.75 * np.minimum(w, 0.0) ** 2, 0.2, 1.0)) + 4.0
    half_x = np.clip(wide, 15.0, None)
    p, q = frame.x / half_x, (frame.y - np.float32(middle)) / np.float32(half_y)
    square = p * p + q * q
    level = np.sqrt(square)
    gradient = np.sqrt((p / half_x) ** 2 + (q / half_y) ** 2 + np.float32(1e-6))
    middle_line = (1.0 - level) * level / gradient + 1.1 * frame.organ
    distance = 0.5 * pelvis.levator_mm - np.abs(middle_line) + 0.5 * frame.tissue
    mask = ramp(distance, frame.edge_mm)
    return mask * np.clip(1.4 - 1.6 * w, 0.0, 1.0) * np.clip((0.55 * b - frame.y) / 6.0, 0.0, 1.0)


def obturator(pelvis: Pelvis, frame: Frame) -> tuple[Array, Array]:
    """Signed distances in mm to the obturator internus and to the bone lateral to it, [x, y, z]."""
    y = frame.y - 4.0
    inner = pelvis.obturator_mm - 0.0055 * np.maximum(y + 8.0, 0.0) ** 2 + 0.6 * frame.organ
    lateral = np.abs(frame.x) - inner
    extent = 1.0 - (y / 44.0) ** 2
    thickness = pelvis.obturator_thickness_mm * np.clip(extent, 0.0, 1.0)
    muscle = np.minimum(lateral, thickness - lateral)
    bone = np.minimum(lateral - thickness - 1.0, np.minimum(y + 34.0, 62.0 - y))
    return np.minimum(muscle, 20.0 * extent), bone


def pubis(pelvis: Pelvis, frame: Frame) -> tuple[Array, Array]:
    """Signed distance in mm to the pubic bones and the mask of the symphysis between them, [x, y, z]."""
    _, b, c = pelvis.shape.half_axes_mm
    front = b + pelvis.pubis_gap_mm
    lateral = np.abs(frame.x) - 19.0
    y = frame.y - (front + 9.0)
    z = frame.z + 0.35 * c
    along, across = 0.86 * lateral - 0.5 * y, 0.5 * lateral + 0.86 * y
    bone = _ellipsoid((along, across, z), (22.0, 9.0, 20.0)) + 0.5 * frame.organ
    joint = np.minimum(3.0 - np.abs(frame.x), np.minimum(9.0 - np.abs(y - 6.0), 16.0 - np.abs(z)))
    return np.minimum(bone, np.abs(frame.x) - 2.0), ramp(joint, frame.edge_mm)


def far_tissue(pelvis: Pelvis, frame: Frame) -> tuple[Array, Array, Array]:
    """Masks [x, y, z] in 0..1 of gluteal muscles, coccyx and outside air, which only large fields of view reach."""
    b = pelvis.shape.half_axes_mm[1]
    back = -(b + 2.0 * max(pelvis.rectum_mm[1], 7.0) + 17.0)
    gluteus = 0.60 * (np.abs(frame.x) - 30.0) - 0.80 * (frame.y + 50.0) + 1.5 * frame.organ
    gluteus = np.minimum(gluteus, frame.y + 95.0)
    coccyx = _ellipsoid((frame.x, frame.y - (back - 6.0), frame.z - 14.0), (9.0, 5.0, 24.0))
    body = _ellipsoid((frame.x, frame.y + 12.0, 0.0 * frame.z), (175.0, 108.0, 1e4))
    return ramp(gluteus, frame.edge_mm), ramp(coccyx, frame.edge_mm), ramp(-body, frame.edge_mm)

"""Tissue maps of one phantom: how much of every voxel is which tissue, with labels of organs and lesions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .fields import Array, Grid, ramp
from .findings import Findings
from .gland import GlandMap, GlandShape, bend, draw_gland, map_gland, zone_fractions
from .masses import Mass, draw_masses, mass_mask
from .nodules import Texture, draw_texture, peripheral_texture, transition_texture
from .parameters import Tissue, load_parameters
from .pelvis import (
    Frame,
    Pelvis,
    bladder,
    draw_pelvis,
    far_tissue,
    levator,
    obturator,
    pubis,
    rectum,
    seminal_vesicles,
)

LABELS: Mapping[str, int] = {
    "background": 0,
    "PZ": 1,
    "TZ": 2,
    "CZ": 3,
    "AFS": 4,
    "seminal vesicles": 5,
    "urethra": 6,
    "bladder": 7,
    "rectum": 8,
    "muscle": 9,
    "bone": 10,
}
GLAND_LABELS = (1, 2, 3, 4, 6)


@dataclass(frozen=True)
class Body:
    """Everything drawn for one patient, independent of any grid."""

    findings: Findings
    shape: GlandShape
    texture: Texture
    pelvis: Pelvis
    masses: tuple[Mass, ...]


@dataclass(frozen=True)
class TissueMaps:
    """One patient on a grid.

    Attributes:
        fractions: [tissue, x, y, z] float32, sums to 1 in every voxel; tissues of `phantom.toml`, then one per lesion.
        tissues: The tissues' properties in the same order.
        labels: [x, y, z] uint8, see `LABELS`.
        lesions: [x, y, z] uint8, the lesion's number in the findings from 1, 0 elsewhere.
        gas_mm: [x, y, z] float32, distance to rectal gas in mm (0 inside, large where there is none).
    """

    fractions: Array
    tissues: tuple[Tissue, ...]
    labels: Array
    lesions: Array
    gas_mm: Array


def draw_body(rng: np.random.Generator, findings: Findings) -> Body:
    """Draws the anatomy that shows `findings`. The same generator state gives the same patient on every grid."""
    shape = draw_gland(rng, findings)
    masses = draw_masses(rng, findings, shape)
    texture = draw_texture(rng, findings, shape)
    return Body(findings, shape, texture, draw_pelvis(rng, findings, shape), masses)


class _Painter:
    """Lays tissues into voxels from the topmost structure down; each takes its share of what is left."""

    def __init__(self, names: list[str], grid: Grid, lesion_count: int) -> None:
        self.index = {name: number for number, name in enumerate(names)}
        self.fractions = np.zeros((len(names) + lesion_count, *grid.shape), dtype=np.float32)
        self.left = np.ones(grid.shape, dtype=np.float32)
        self.labels = np.zeros(grid.shape, dtype=np.uint8)
        self.box: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))

    def paint(self, mask: Array, shares: Mapping[str | int, Array | float], label: str | None = None) -> None:
        """Paints `mask` [x, y, z] inside the current box; the shares of the tissues sum to 1."""
        left = self.left[self.box]
        if label is not None:
            labels = self.labels[self.box]
            labels[(labels == 0) & (mask > 0.5) & (left > 0.5)] = LABELS[label]
        weight = mask * left
        for tissue, share in shares.items():
            number = self.index[tissue] if isinstance(tissue, str) else len(self.index) + tissue
            self.fractions[number][self.box] += weight * share
        left -= weight


def make_tissue_maps(body: Body, grid: Grid) -> TissueMaps:
    """Paints `body` on `grid` with soft boundaries of about a voxel (partial volume)."""
    parameters = load_parameters()
    painter = _Painter(list(parameters.tissues), grid, len(body.masses))
    in_plane = float(max(grid.x_mm[1] - grid.x_mm[0], grid.y_mm[1] - grid.y_mm[0]))
    edge_mm = 0.25 + 0.45 * in_plane
    lesions = np.zeros(grid.shape, dtype=np.uint8)
    _paint_gland(body, grid, painter, lesions, edge_mm)
    gas_mm = _paint_surroundings(body, grid, painter, edge_mm)
    lesion_tissues = tuple(Tissue(0.95, 1550.0, mass.t2_ms, mass.adc_um2_s) for mass in body.masses)
    return TissueMaps(
        painter.fractions, (*parameters.tissues.values(), *lesion_tissues), painter.labels, lesions, gas_mm
    )


def _paint_gland(body: Body, grid: Grid, painter: _Painter, lesions: Array, edge_mm: float) -> None:
    reach = [half * 1.2 + 8.0 for half in body.shape.half_axes_mm]
    painter.box = grid.box(body.shape.centre_mm, reach)
    part = grid.part(painter.box)
    gland = map_gland(body.shape, part)
    zones = zone_fractions(gland, edge_mm)
    _paint_lesions(body, part, gland, painter, lesions[painter.box], edge_mm)
    _paint_urethra(body, gland, zones["gland"], painter, edge_mm)
    inside_band = np.clip(1.0 - np.abs(gland.gland + 0.2) / (0.7 + 0.5 * edge_mm), 0.0, 1.0)
    painter.paint(0.5 * inside_band * np.clip(0.9 - gland.v, 0.0, 1.0), {"fibrous": 1.0})
    zone_band = np.clip(1.0 - np.abs(gland.tz) / (0.6 + 0.5 * edge_mm), 0.0, 1.0) * zones["gland"]
    painter.paint(0.5 * zone_band * np.clip(0.6 - 1.5 * gland.v, 0.0, 1.0), {"fibrous": 1.0})
    glandular, rims = transition_texture(body.texture, gland, part, edge_mm)
    inflamed, blood = peripheral_texture(body.texture, body.findings, gland, part)
    painter.paint(0.55 * rims * zones["TZ"], {"fibrous": 1.0})
    # The zones share the gland's mask, so each is painted as its part of what the zones before it leave.
    whole = np.maximum(zones["gland"], 1e-6)
    parts = {name: zones[name] / whole for name in ("AFS", "TZ", "CZ", "PZ")}
    painter.paint(
        zones["gland"],
        {
            "afs": parts["AFS"],
            "tz_glandular": parts["TZ"] * glandular,
            "tz_stromal": parts["TZ"] * (1.0 - glandular),
            "cz": parts["CZ"],
            "pz": parts["PZ"] * (1.0 - blood) * (1.0 - inflamed),
            "pz_inflamed": parts["PZ"] * (1.0 - blood) * inflamed,
            "haemorrhage": parts["PZ"] * blood,
        },
    )
    _label_zones(zones, painter)


def _label_zones(zones: dict[str, Array], painter: _Painter) -> None:
    names = ("PZ", "TZ", "CZ", "AFS")
    best = np.argmax(np.stack([zones[name] for name in names]), axis=0)
    numbers = np.array([LABELS[name] for name in names], dtype=np.uint8)[best]
    labels = painter.labels[painter.box]
    free = (labels == 0) & (zones["gland"] > 0.5)
    labels[free] = numbers[free]


def _paint_lesions(body: Body, grid: Grid, gland: GlandMap, painter: _Painter, lesions: Array, edge_mm: float) -> None:
    for number, mass in enumerate(body.masses):
        mask, distance = mass_mask(mass, gland, grid, edge_mm)
        core = (distance > 0) & (lesions == 0)
        lesions[core] = number + 1
        # A lesion belongs to the zone that the findings name, also where it pushes that zone's border aside.
        painter.labels[painter.box][core] = LABELS[mass.lesion.zone]
        painter.paint(mask * np.float32(mass.blend), {number: 1.0})


def _paint_urethra(body: Body, gland: GlandMap, whole: Array, painter: _Painter, edge_mm: float) -> None:
    b = body.shape.half_axes_mm[1]
    course = b * (0.02 + 0.22 * np.clip(gland.w, -0.3, 1.0))
    radius = np.hypot(gland.x, gland.y - course)
    painter.paint(ramp(1.9 - radius, edge_mm) * whole, {"urethra": 0.8, "tz_stromal": 0.2}, "urethra")
    painter.paint(0.5 * ramp(3.8 - radius, edge_mm + 0.6) * whole, {"tz_stromal": 0.7, "fibrous": 0.3})


def _paint_surroundings(body: Body, grid: Grid, painter: _Painter, edge_mm: float) -> Array:
    painter.box = (slice(None), slice(None), slice(None))
    x, y, z = bend(body.shape, grid)
    pelvis = body.pelvis
    frame = Frame(x, y, z, pelvis.organ.sample(grid), pelvis.tissue.sample(grid), edge_mm)
    vesicles, fluid = seminal_vesicles(pelvis, frame, grid)
    invaded = _invaded_share(body, frame)
    shares: dict[str | int, Array | float] = {
        "sv_fluid": fluid * (1.0 - invaded),
        "sv_wall": (1.0 - fluid) * (1.0 - invaded),
    }
    if body.findings.seminal_vesicle_invasion:
        shares[_invading_lesion(body)] = invaded
    painter.paint(vesicles, shares, "seminal vesicles")
    gas_mm = _paint_rectum(body, frame, painter)
    urine, whole = bladder(pelvis, frame)
    painter.paint(urine, {"urine": 1.0}, "bladder")
    painter.paint(whole, {"smooth_wall": 1.0}, "bladder")
    _paint_muscle_and_bone(pelvis, frame, painter)
    _paint_fat(pelvis, frame, grid, painter)
    return gas_mm


def _invading_lesion(body: Body) -> int:
    ranked = [n for n, mass in enumerate(body.masses) if mass.lesion.zone == "PZ" and mass.lesion.level == "base"]
    return ranked[0]


def _invaded_share(body: Body, frame: Frame) -> Array:
    """Share of tumour in the seminal vesicle on the side of the lesion that invades it, fading laterally, [x, y, z]."""
    if not body.findings.seminal_vesicle_invasion:
        return np.zeros((), dtype=np.float32)
    sign = body.masses[_invading_lesion(body)].sign
    lateral = np.float32(sign) * frame.x
    return np.clip((lateral - 1.0) / 3.0, 0.0, 1.0) * np.clip((24.0 - lateral) / 6.0, 0.0, 0.9)


def _paint_rectum(body: Body, frame: Frame, painter: _Painter) -> Array:
    lumen, wall = rectum(body.pelvis, frame)
    inside = ramp(lumen, frame.edge_mm)
    content = body.findings.rectum
    if content == "gas":
        level = frame.y - (-body.shape.half_axes_mm[1] - 1.75 * body.pelvis.rectum_mm[1] - 3.0)
        gas = ramp(level, frame.edge_mm)  # gas rises to the front of a supine patient
        painter.paint(inside, {"gas": gas, "stool": 1.0 - gas}, "rectum")
    elif content == "stool":
        specks = np.clip(0.9 * frame.tissue - 0.75, 0.0, 0.9)
        painter.paint(
            inside, {"gas": specks, "stool": 0.85 * (1.0 - specks), "mucosa": 0.15 * (1.0 - specks)}, "rectum"
        )
    else:
        folds = np.clip(0.45 + 0.5 * frame.tissue, 0.0, 1.0)
        painter.paint(inside, {"mucosa": folds, "smooth_wall": 1.0 - folds}, "rectum")
    painter.paint(ramp(lumen + 1.0, frame.edge_mm), {"mucosa": 0.7, "smooth_wall": 0.3}, "rectum")
    painter.paint(ramp(wall, frame.edge_mm), {"smooth_wall": 1.0}, "rectum")
    if content != "gas":
        return np.full(lumen.shape, 1e3, dtype=np.float32)
    return np.maximum(np.maximum(-lumen, -level), 0.0)


def _paint_muscle_and_bone(pelvis: Pelvis, frame: Frame, painter: _Painter) -> None:
    edge = frame.edge_mm
    strands = np.clip(0.08 + 0.06 * frame.tissue, 0.0, 0.3)
    muscle: dict[str | int, Array | float] = {"muscle": 1.0 - strands, "fat": strands}
    painter.paint(levator(pelvis, frame), muscle, "muscle")
    inner, lateral_bone = obturator(pelvis, frame)
    painter.paint(ramp(inner, edge), muscle, "muscle")
    pubic_bone, symphysis = pubis(pelvis, frame)
    painter.paint(symphysis, {"cartilage": 1.0}, "bone")
    bone = np.maximum(pubic_bone, lateral_bone)
    spongy = np.clip(0.86 + 0.06 * frame.tissue, 0.0, 1.0)
    painter.paint(ramp(bone - 1.6, edge), {"marrow": spongy, "cortical": 1.0 - spongy}, "bone")
    painter.paint(ramp(bone, edge), {"cortical": 1.0}, "bone")
    gluteus, coccyx, air = far_tissue(pelvis, frame)
    painter.paint(air, {"gas": 1.0})
    painter.paint(coccyx, {"marrow": 0.85, "cortical": 0.15}, "bone")
    painter.paint(gluteus, muscle, "muscle")


def _paint_fat(pelvis: Pelvis, frame: Frame, grid: Grid, painter: _Painter) -> None:
    a, b, c = pelvis.shape.half_axes_mm
    field = pelvis.veins.sample(grid)
    # The venous plexus lies in front of the gland and at its sides, two neurovascular bundles at 5 and 7 o'clock.
    around = np.sqrt((frame.x / (a + 7.0)) ** 2 + (frame.y / (b + 8.0)) ** 2 + (frame.z / (c + 12.0)) ** 2)
    near = np.clip(5.0 - 5.0 * around, 0.0, 1.0) * np.clip(0.4 + frame.y / b, 0.0, 1.0)
    bundle = np.hypot(np.abs(frame.x) - 0.70 * a, frame.y + 0.88 * b + 1.0)
    bundles = np.clip(1.6 - bundle / 4.0, 0.0, 1.0) * np.clip(1.6 - 1.2 * np.abs(frame.z) / c, 0.0, 1.0)
    vein = np.clip(0.35 + 0.65 * field, 0.0, 0.9) * np.maximum(near, 0.8 * bundles)
    septa = np.clip(0.26 - 0.7 * np.abs(frame.tissue), 0.0, 0.26) + np.clip(0.08 + 0.07 * field, 0.0, 0.3)
    painter.paint(
        np.ones_like(vein), {"vein": vein, "fibrous": septa * (1.0 - vein), "fat": (1.0 - septa) * (1.0 - vein)}
    )

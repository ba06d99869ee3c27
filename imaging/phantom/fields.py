"""Grids in millimetres and smooth random fields on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
# Standard deviation of a cubic B-spline sum of unit normals, averaged over the cell: (151/315)^(3/2) in 3-D.
_SPLINE_DEVIATION = (151.0 / 315.0) ** 1.5


@dataclass(frozen=True)
class Grid:
    """An axis-aligned grid [x, y, z] in RAS millimetres, origin at the centre of the field of view."""

    x_mm: Array
    y_mm: Array
    z_mm: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return len(self.x_mm), len(self.y_mm), len(self.z_mm)

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """The three axes shaped for broadcasting: [x, 1, 1], [1, y, 1], [1, 1, z]."""
        return self.x_mm[:, None, None], self.y_mm[None, :, None], self.z_mm[None, None, :]

    def box(self, centre_mm: Sequence[float], half_mm: Sequence[float]) -> tuple[slice, slice, slice]:
        """Index slices of the voxels within `half_mm` of `centre_mm` along every axis."""
        slices = []
        for axis, centre, half in zip((self.x_mm, self.y_mm, self.z_mm), centre_mm, half_mm, strict=True):
            first, last = np.searchsorted(axis, [centre - half, centre + half])
            slices.append(slice(int(first), int(last)))
        return slices[0], slices[1], slices[2]

    def part(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of the voxels inside `box`."""
        return Grid(self.x_mm[box[0]], self.y_mm[box[1]], self.z_mm[box[2]])


def centred_grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> Grid:
    """Grid of `shape` voxels at `spacing_mm`, centred on 0."""
    axes = [((np.arange(n) - (n - 1) / 2) * mm).astype(np.float32) for n, mm in zip(shape, spacing_mm, strict=True)]
    return Grid(axes[0], axes[1], axes[2])


@dataclass(frozen=True)
class SmoothField:
    """A periodic cubic B-spline field with unit variance: `coefficients` [m, m, m] on a lattice of `lattice_mm`."""

    coefficients: Array
    lattice_mm: float

    def sample(self, grid: Grid) -> Array:
        """Values [x, y, z] float32 on `grid`."""
        bx, by, bz = (
            _spline_matrix(axis, self.lattice_mm, self.coefficients.shape[0])
            for axis in (grid.x_mm, grid.y_mm, grid.z_mm)
        )
        m = self.coefficients.shape[0]
        along_z = (self.coefficients.reshape(m * m, m) @ bz.T).reshape(m, m, -1)
        along_y = np.matmul(by, along_z)
        values = bx @ along_y.reshape(m, -1)
        return values.reshape(grid.shape)


def draw_field(rng: np.random.Generator, lattice_mm: float, count: int = 16) -> SmoothField:
    """Draws a field whose lattice repeats every `count * lattice_mm` millimetres."""
    coefficients = rng.standard_normal((count, count, count), dtype=np.float32) / np.float32(_SPLINE_DEVIATION)
    return SmoothField(coefficients, lattice_mm)


def _spline_matrix(axis_mm: Array, lattice_mm: float, count: int) -> Array:
    position = np.asarray(axis_mm, dtype=np.float64) / lattice_mm
    cell = np.floor(position).astype(int)
    t = position - cell
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    matrix = np.zeros((len(axis_mm), count), dtype=np.float32)
    rows = np.arange(len(axis_mm))
    for offset, weight in enumerate(weights):
        np.add.at(matrix, (rows, (cell + offset - 1) % count), (weight / 6).astype(np.float32))
    return matrix


def ramp(distance_mm: Array, half_width_mm: float) -> Array:
    """Soft mask of a signed distance (positive inside): 0.5 on the surface, linear over +-`half_width_mm`."""
    mask = distance_mm * np.float32(0.5 / half_width_mm)
    mask += np.float32(0.5)
    return np.clip(mask, 0.0, 1.0, out=mask)

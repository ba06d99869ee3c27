"""Volumes with their place in the patient.

Axis order: arrays are indexed `[x, y, z]` as nibabel gives them; a 4x4 float64 affine maps voxel indices to RAS mm.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import InputError

Triple = tuple[float, float, float]

# Positive and negative direction of the three world axes.
DIRECTIONS = (("L", "R"), ("P", "A"), ("I", "S"))
# Two grids whose voxel centres differ by less than this many voxels are one grid: float32 headers cause as much.
SAME_GRID_VOXELS = 1e-4
# Share of a grid, along each of its axes, that another volume must cover at least; small fields of view cover a third.
LEAST_OVERLAP = 0.1
MAX_RESAMPLED = 2**29  # a grid of more voxels comes from a damaged header
# Standard deviation of a Gaussian whose full width at half maximum is 1.
SIGMA_OF_FWHM = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image and where it lies.

    Args:
        data: Array `[x, y, z]`, integer or floating point.
        affine: 4x4 float64, voxel index to RAS mm; the last row is 0 0 0 1.

    Raises:
        InputError: The array is not 3-D or not numeric, or the affine is not finite or not invertible.
    """

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        affine = np.array(self.affine, dtype=np.float64)
        if data.ndim != 3 or data.size == 0:
            raise InputError(
                f"A volume needs three non-empty axes, but the array has shape {data.shape}.",
                "Give one 3-D image; split a 4-D series into its volumes first.",
            )
        if data.dtype.kind not in "biuf":
            raise InputError(
                f"A volume needs real numbers, but the array has type {data.dtype}.", "Convert it to float32 first."
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise InputError(
                f"The affine {affine.tolist()} is not a finite 4x4 matrix that ends in 0 0 0 1.",
                "Repair the orientation in the file's header.",
            )
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            raise InputError(
                f"The affine {affine.tolist()} is not invertible: its axes do not span space.",
                "Repair the orientation in the file's header.",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing_mm(self) -> Triple:
        """Distance between voxel centres along x, y, z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Direction to which each index grows, such as `RAS` or `LPS` (nibabel's axis codes)."""
        axes, signs = closest_axes(self.affine)
        return "".join(DIRECTIONS[axis][int(sign > 0)] for axis, sign in zip(axes, signs, strict=True))

    @property
    def centre_mm(self) -> Triple:
        """RAS position in mm of the middle of the grid."""
        x, y, z = _centre(self.shape, self.affine)
        return float(x), float(y), float(z)


def closest_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Finds the world axis that each voxel axis follows best.

    Args:
        affine: 4x4, voxel to RAS mm.

    Returns:
        World axis (0 right, 1 anterior, 2 superior) and sign of each voxel axis. The three world axes are distinct: of
        the six assignments the one with the greatest sum of cosines is taken.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Rounded so that a tie at 45 degrees does not depend on the last bit.
    axes = max(
        itertools.permutations(range(3)),
        key=lambda p: round(sum(abs(float(cosines[world, voxel])) for voxel, world in enumerate(p)), 9),
    )
    signs = [1 if cosines[world, voxel] > 0 else -1 for voxel, world in enumerate(axes)]
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def _parse_orientation(orientation: str) -> list[tuple[int, int]]:
    """Turns axis codes into (world axis, sign) per letter."""
    found = [
        (world, 1 if letter == pair[1] else -1)
        for letter in orientation
        for world, pair in enumerate(DIRECTIONS)
        if letter in pair
    ]
    if len(orientation) != 3 or sorted(world for world, _ in found) != [0, 1, 2]:
        raise InputError(f"Orientation {orientation!r} does not name three directions.", "Use for example 'RAS'.")
    return found


def _centre(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """RAS mm of the middle of a grid."""
    middle = (np.asarray(shape, dtype=np.float64) - 1.0) / 2.0
    return np.asarray(affine[:3, :3] @ middle + affine[:3, 3])


def reorient(volume: Volume, orientation: str = "RAS") -> Volume:
    """Permutes and flips axes so that they grow to the named directions. No voxel value or position changes.

    Args:
        volume: Any volume; an oblique one stays oblique and takes the closest order.
        orientation: Three axis codes, such as `RAS`.

    Returns:
        The volume in the new order (a view of the same data).

    Raises:
        InputError: `orientation` does not name three directions.
    """
    wanted = _parse_orientation(orientation)
    axes, signs = closest_axes(volume.affine)
    order = [axes.index(world) for world, _ in wanted]
    data = np.transpose(volume.data, order)
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    slices = []
    for new, (old, (_, sign)) in enumerate(zip(order, wanted, strict=True)):
        flip = signs[old] != sign
        change[old, new] = -1.0 if flip else 1.0
        change[old, 3] = volume.shape[old] - 1.0 if flip else 0.0
        slices.append(slice(None, None, -1 if flip else 1))
    return Volume(data[tuple(slices)], volume.affine @ change)


def reference_affine(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Makes the affine of an RAS grid whose middle lies at 0 mm.

    Args:
        shape: Voxels along x, y, z.
        spacing_mm: Spacing along x, y, z in mm.

    Returns:
        4x4 float64, voxel to RAS mm.
    """
    affine = np.diag([*(float(s) for s in spacing_mm), 1.0])
    affine[:3, 3] = -(np.asarray(shape, dtype=np.float64) - 1.0) / 2.0 * np.asarray(spacing_mm, dtype=np.float64)
    return affine


def _voxel_map(volume: Volume, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """4x4 from voxels of the grid (affine, shape) to voxels of `volume`; whole steps are made exact."""
    mapping: np.ndarray = np.linalg.solve(volume.affine, affine)
    whole = np.round(mapping)
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0.0, size - 1.0) for size in shape))])
    if np.abs(corners @ (mapping - whole).T).max() < SAME_GRID_VOXELS:
        return whole
    return mapping


def _inside(mapping: np.ndarray, shape: Sequence[int], source_shape: Sequence[int]) -> np.ndarray:
    """Mask [x, y, z] of the grid's voxels whose centres fall within the extent of the source's voxels."""
    mask = np.ones(tuple(shape), dtype=bool)
    x, y, z = np.ogrid[tuple(slice(size) for size in shape)]
    for axis, size in enumerate(source_shape):
        a, b, c, offset = mapping[axis]
        index = a * x + b * y + c * z + offset
        # A voxel reaches half a step beyond its centre, and rounding must not cost the outermost one.
        mask &= (index >= -0.5 - SAME_GRID_VOXELS) & (index <= size - 0.5 + SAME_GRID_VOXELS)
    return mask


def _interpolate(volume: Volume, affine: np.ndarray, shape: tuple[int, int, int], order: int, fill: float) -> Volume:
    """Samples `volume` on the grid (affine, shape). Raises `InputError` where no voxel of the grid lies inside it."""
    from scipy.ndimage import affine_transform

    mapping = _voxel_map(volume, affine, shape)
    if shape == volume.shape and np.array_equal(mapping, np.eye(4)):
        return Volume(volume.data if order == 0 else volume.data.astype(np.float32), affine)
    inside = _inside(mapping, shape, volume.shape)
    if not inside.any():
        raise InputError(
            f"The volumes do not overlap in space: one is centred at {_text(volume.centre_mm)} mm, "
            f"the other at {_text(_centre(shape, affine))} mm (right, anterior, superior).",
            "Check that the files belong to one exam and that their headers hold the scanner's positions.",
        )
    covered = [inside.any(axis=tuple({0, 1, 2} - {axis})).mean() for axis in range(3)]
    if min(covered) < LEAST_OVERLAP:
        raise InputError(
            f"The volumes hardly overlap in space: one covers {min(covered):.0%} of the other along its axis "
            f"{'xyz'[int(np.argmin(covered))]}, less than {LEAST_OVERLAP:.0%}.",
            "Check that the files belong to one exam, are whole, and hold the scanner's positions.",
        )
    # Labels keep their type; intensities are interpolated in float32.
    source = volume.data if order == 0 else volume.data.astype(np.float32)
    data = affine_transform(source, mapping[:3, :3], mapping[:3, 3], shape, order=order, mode="nearest")
    data[~inside] = fill
    return Volume(data, affine)


def _text(position: Sequence[float] | np.ndarray) -> str:
    """Writes a position for a sentence."""
    return "(" + ", ".join(f"{float(value):.1f}" for value in position) + ")"


def resample_to(volume: Volume, reference: Volume, order: int = 1, fill: float = 0.0) -> Volume:
    """Samples `volume` on the grid of `reference`, by their affines.

    Nothing is smoothed: to go to a much coarser grid use `resample_spacing`.

    Args:
        volume: What to sample.
        reference: Gives the grid.
        order: Spline order: 0 nearest (labels, type kept), 1 linear, 3 cubic (float32).
        fill: Value of voxels outside `volume`.

    Returns:
        Volume on the reference's grid. On the same grid the values come back exactly.

    Raises:
        InputError: The two do not overlap in space.
    """
    return _interpolate(volume, reference.affine, reference.shape, order, fill)


def resample_spacing(volume: Volume, spacing_mm: Sequence[float], order: int = 1) -> Volume:
    """Changes the spacing and keeps centre, directions and (to half a voxel) the field of view.

    Where an axis gets coarser the volume is first smoothed with a Gaussian that widens the point spread function from
    the old spacing to the new one, lest it alias (Cardoso et al., Scale factor point spread function matching, 2015).

    Args:
        volume: What to sample.
        spacing_mm: New spacing along the volume's own x, y, z in mm.
        order: Spline order, see `resample_to`. Order 0 does not smooth.

    Returns:
        Volume with the new spacing; the same data where the spacing is already that. InputError for an absurd size.
    """
    from scipy.ndimage import gaussian_filter

    old = np.array(volume.spacing_mm)
    new = np.array([float(s) for s in spacing_mm])
    if np.allclose(old, new, rtol=SAME_GRID_VOXELS, atol=0.0):
        return volume
    counts = np.maximum(np.round(volume.shape * old / new), 1)
    if counts.prod() > MAX_RESAMPLED:
        sizes = f"{volume.shape} voxels of {old.round(3).tolist()} mm are {counts.prod():.3g} of {new.tolist()} mm."
        raise InputError(sizes, "Repair the voxel size in the file's header.")
    shape = (int(counts[0]), int(counts[1]), int(counts[2]))
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] / old * new
    affine[:3, 3] = np.array(volume.centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1.0) / 2.0)
    source = volume
    if order > 0:
        sigma = SIGMA_OF_FWHM * np.sqrt(np.maximum(new**2 - old**2, 0.0)) / old
        smooth = gaussian_filter(volume.data.astype(np.float32), sigma, mode="nearest")
        source = Volume(smooth, volume.affine)
    return _interpolate(source, affine, shape, order, 0.0)


def crop_or_pad(volume: Volume, shape: Sequence[int], fill: float | None = None) -> Volume:
    """Cuts or extends each axis evenly on both sides. Voxels keep their position: the affine's origin follows.

    Args:
        volume: What to cut.
        shape: New voxel counts along x, y, z. An odd difference puts the extra voxel at the far end.
        fill: Value of new voxels; None takes the volume's minimum, which is its background.

    Returns:
        Volume of that shape.
    """
    target = (int(shape[0]), int(shape[1]), int(shape[2]))
    if target == volume.shape:
        return volume
    data = np.full(target, volume.data.min() if fill is None else fill, dtype=volume.data.dtype)
    # Index of the new grid's first voxel in the old grid; negative where the axis is extended.
    start = [int((old - new) / 2) for old, new in zip(volume.shape, target, strict=True)]
    source = tuple(slice(max(s, 0), min(s + n, o)) for s, n, o in zip(start, target, volume.shape, strict=True))
    into = tuple(slice(c.start - s, c.stop - s) for c, s in zip(source, start, strict=True))
    data[into] = volume.data[source]
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ np.array(start, dtype=np.float64) + volume.affine[:3, 3]
    return Volume(data, affine)

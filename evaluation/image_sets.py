"""Sets of exams to compare: found, checked, on one grid, loaded one exam at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.errors import InputError
from ..imaging.exams import Exam, PreparedExam, find_exams, load_exam
from ..imaging.files import read_volume
from ..imaging.spec import ImageSpec
from ..imaging.volume import closest_axes, reorient
from ..zoo.card import Card
from ..zoo.loading import sha256_file

LEAST_EXAMS = 10
# Spacings that differ by less are one: headers round.
SAME_SPACING = 1e-3


@dataclass(frozen=True)
class ImageSet:
    """One set of exams.

    Attributes:
        name: "real", "synthetic" or "holdout", for messages.
        source: Where they were found.
        exams: Sorted by id.
        spec: Grid and sequences on which they are compared.
        own_grid: Whether every exam has to lie on the grid of `spec` already.
    """

    name: str
    source: Path
    exams: tuple[Exam, ...]
    spec: ImageSpec
    own_grid: bool

    def __len__(self) -> int:
        return len(self.exams)

    def load(self, index: int) -> np.ndarray:
        """Reads an exam: float32 in 0..1, [sequence, x, y, z].

        Raises:
            InputError: A file cannot be used, or the exam lies on another grid than the sets are compared on.
        """
        prepared = load_exam(self.exams[index], self.spec)
        if self.own_grid:
            _check_grid(*_source_grid(prepared), self.spec, f"Exam {self.exams[index].id!r} of the {self.name} set")
        return prepared.array

    def digests(self, index: int) -> tuple[str, ...]:
        """SHA-256 of the file of each sequence of an exam, as it lies on disk; of a DICOM series, that of all files."""
        files = self.exams[index].files
        return tuple(_digest(files[name]) for name in self.spec.channel_names)


def open_sets(
    sources: dict[str, Path], *, sequences: Sequence[str] | None, template: Card, own_grid: bool
) -> dict[str, ImageSet]:
    """Finds the exams of several sets that are to be compared on one grid.

    Args:
        sources: Folder or manifest per set; the first one's first exam gives the grid where `own_grid` is set.
        sequences: Which to compare; None takes all of the template's.
        template: A model: its intensity maps, and without `own_grid` also its grid.
        own_grid: Keep the exams on the grid they have, which must then be the same for all.

    Returns:
        The sets by name.

    Raises:
        InputError: A sequence is unknown, a set has fewer than 10 exams, or a file cannot be used.
    """
    known = {channel.name: channel for channel in template.image.channels}
    names = tuple(sequences) if sequences else tuple(known)
    for name in names:
        if name not in known:
            raise InputError(f"There is no sequence {name!r}.", f"Give some of {', '.join(known)}.")
    spec = replace(template.image, channels=tuple(known[name] for name in names))
    sets: dict[str, ImageSet] = {}
    for label, source in sources.items():
        exams = find_exams(source, names)
        if len(exams) < LEAST_EXAMS:
            raise InputError(
                f"The {label} set {source} has {len(exams)} exams; at least {LEAST_EXAMS} are due.", "Add exams to it."
            )
        if own_grid:
            grid = _grid_of(exams[0], spec)
            if sets:
                # Every exam is checked when it is read; another grid of a whole set need not wait for that.
                _check_grid(grid.shape, grid.spacing_mm or (), spec, f"Exam {exams[0].id!r} of the {label} set")
            else:
                spec = grid
        sets[label] = ImageSet(label, Path(source), tuple(exams), spec, own_grid)
    return sets


def draw_equal(real: ImageSet, synthetic: ImageSet, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As many exams of either set, for figures that depend on the number.

    Args:
        real: One set.
        synthetic: The other.
        count: How many to draw without replacement; None takes all, which must then be equally many.
        seed: Seed of the drawing.

    Returns:
        Indices into both sets, ascending.

    Raises:
        InputError: The numbers differ and no count is given, or a set has fewer exams than the count.
    """
    n, m = len(real), len(synthetic)
    if count is None and n != m:
        raise InputError(
            f"There are {n} real and {m} synthetic exams, and distances of different numbers do not compare.",
            f"Draw as many of each: --count {min(n, m)}",
        )
    chosen = n if count is None else count
    if chosen > min(n, m) or chosen < LEAST_EXAMS:
        raise InputError(
            f"{chosen} exams of each were asked for; there are {n} real and {m} synthetic ones.",
            f"Give --count {LEAST_EXAMS} to {min(n, m)}.",
        )
    rng = np.random.default_rng(seed)
    first, second = (np.sort(rng.choice(size, chosen, replace=False)) for size in (n, m))
    return first, second


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the digests of the files that a volume consists of."""
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*") if part.is_file())
    else:
        # A MetaImage header may name its data, which then lie beside it.
        endings = (".raw", ".zraw") if path.suffix.lower() == ".mhd" else ()
        beside = [path.with_suffix(ending) for ending in endings if path.with_suffix(ending).is_file()]
        parts = [path, *beside]
    digests = [sha256_file(part) for part in parts]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _grid_of(exam: Exam, spec: ImageSpec) -> ImageSpec:
    """The image specification with the grid of an exam's first sequence."""
    volume = reorient(read_volume(exam.files[spec.channels[0].name]), spec.orientation or "RAS")
    return replace(spec, shape=volume.shape, spacing_mm=volume.spacing_mm)


def _source_grid(prepared: PreparedExam) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing in mm, in the order of the world's axes, of the volume that an exam was prepared from."""
    axes, _ = closest_axes(prepared.source_affine)
    lengths = np.linalg.norm(prepared.source_affine[:3, :3], axis=0)
    shape, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    for voxel, world in enumerate(axes):
        shape[world], spacing[world] = prepared.source_shape[voxel], float(lengths[voxel])
    return tuple(shape), tuple(spacing)


def _check_grid(shape: tuple[int, ...], spacing: tuple[float, ...], spec: ImageSpec, who: str) -> None:
    assert spec.spacing_mm is not None  # _grid_of sets it
    if shape != spec.shape or not np.allclose(spacing, spec.spacing_mm, rtol=SAME_SPACING, atol=0.0):
        raise InputError(
            f"{who} has the grid {_grid_text(shape, spacing)}; the first real exam has "
            f"{_grid_text(spec.shape, spec.spacing_mm)}.",
            "Compare sets of one grid, or bring all onto a model's grid with --grid NAME.",
        )


def _grid_text(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{mm:.3g}' for mm in spacing_mm)} mm"

"""Finds exams and makes them into the arrays that a model expects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import check_volume, read_description, read_volume, volume_ending
from .intensity import parse_intensity
from .layouts import LOOKED_FOR, Exam, OnProblem, find_in_folder
from .manifests import MANIFEST_ENDINGS, exams_from_records, find_in_manifests
from .run_manifests import run_manifests
from .spec import Channel, ImageSpec
from .volume import Volume, crop_or_pad, reorient, resample_spacing, resample_to

__all__ = ["Exam", "PreparedExam", "exams_from_records", "find_exams", "is_synthetic", "load_exam", "read_aligned"]

# An image in this unit whose high values stay below the number is in another unit.
LEAST_VALUE_OF_UNIT: Mapping[str, float] = {"1e-6 mm2/s": 10.0}
HIGH_PERCENTILE = 95.0
PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)


@dataclass(frozen=True, eq=False)
class PreparedExam:
    """An exam on a model's grid.

    Args:
        array: float32 `[C, X, Y, Z]` in 0..1.
        affine: 4x4 float64 of the array's grid, voxel to RAS mm.
        intensity_params: Bounds per channel, for `IntensityMap.invert`.
        source_shape: Shape of the first channel's file, x, y, z.
        source_affine: Affine of the first channel's file.
        percentiles: Of each channel before its intensity map, in its unit, by the percentile's name.
    """

    array: np.ndarray
    affine: np.ndarray
    intensity_params: list[dict[str, float]]
    source_shape: tuple[int, int, int]
    source_affine: np.ndarray
    percentiles: list[dict[str, float]] = field(default_factory=list)


def find_exams(source: Path | str, channels: Sequence[str], on_problem: OnProblem | None = None) -> list[Exam]:
    """Finds exams in a folder (PI-CAI, Prostate158, plain, or one exam's) or a manifest (CSV, JSON Lines).

    Args:
        source: Folder or manifest. In a folder with a `manifest.jsonl`, as a run leaves it, the manifest tells; where
            the run was made in shards, all of their manifests.
        channels: Channels that every exam must have.
        on_problem: Called with the id and the error of an exam that cannot be used, such as one without a channel or
            with a report that is not text; the others are found all the same. None raises the first such error.

    Returns:
        Exams in the order of the manifest; those of a folder sorted by id.

    Raises:
        InputError: Nothing is found, an exam lacks a channel or has it twice, an id is unsafe or there twice.
    """
    path = Path(source)
    if path.is_dir():
        manifests = run_manifests(path)
        return (
            find_in_manifests(manifests, channels, on_problem)
            if manifests
            else find_in_folder(path, channels, on_problem)
        )
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path.")
    if path.suffix.lower() in MANIFEST_ENDINGS:
        return find_in_manifests([path], channels, on_problem)
    raise InputError(f"{path} is neither a folder nor a manifest.", f"Give {LOOKED_FOR}.")


def is_synthetic(exam: Exam) -> bool:
    """Whether a model or simulation made an exam.

    Either the exam's source says so, or a file of it: in the sidecar beside it, or in its NIfTI description, which
    begins with `synthetic`. One sequence is enough. Raises `InputError` where a file has no readable header.
    """
    return exam.synthetic or any(_says_synthetic(path) for path in exam.files.values())


def _says_synthetic(path: Path) -> bool:
    stem = path.name[: len(path.name) - len(volume_ending(path) or "")]
    sidecar = path.with_name(f"{stem}.json")
    try:
        described = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        described = None  # many tools leave a .json beside an image
    if isinstance(described, dict) and described.get("synthetic") is True:
        return True
    return read_description(path).split()[:1] == ["synthetic"]


def _read_channel(exam: Exam, channel: Channel) -> Volume:
    """Reads and checks one channel."""
    path = exam.files[channel.name]
    name = f"{channel.name} of exam {exam.id!r} ({path})"
    volume = read_volume(path)
    check_volume(volume, name)
    least = LEAST_VALUE_OF_UNIT.get(channel.unit)
    if least is not None:
        _check_unit(volume, name, channel.unit, least)
    return volume


def _check_unit(volume: Volume, name: str, unit: str, least: float) -> None:
    """Refuses an image in another unit: by its high values, of which an artefact of some voxels makes no difference."""
    positive = volume.data[volume.data > 0]
    if positive.size == 0:
        raise InputError(f"The {name} has no value above 0.", f"Save it in {unit}: such values are positive.")
    highest = float(np.percentile(positive, HIGH_PERCENTILE))
    if highest < least:
        factor, other = (1e3, "1e-3 mm2/s") if highest >= least / 1e3 else (1e6, "mm2/s")
        raise InputError(
            f"The {name} is due in {unit}, but {HIGH_PERCENTILE:g} % of its positive values do not exceed "
            f"{highest:.3g}: it looks like {other}.",
            f"Multiply the values by {factor:g} and save the file again.",
        )


def _map_to(volume: Volume, reference: Volume, exam: Exam, channel: Channel) -> Volume:
    """Resamples a channel on the first one's grid, naming both where they do not overlap."""
    try:
        return resample_to(volume, reference)
    except InputError as error:
        raise InputError(f"Exam {exam.id!r}, channel {channel.name!r}: {error.message}", error.remedy) from error


def read_aligned(exam: Exam, spec: ImageSpec) -> tuple[list[Volume], Volume]:
    """Reads an exam's channels onto the grid of the first one, reoriented.

    Args:
        exam: What to read.
        spec: A 3-D image: axes `xyz`.

    Returns:
        The channels in the order of `spec`, in their units, and the first one as it lies on disk.

    Raises:
        InputError: A file cannot be used, the channels do not overlap in space or a unit is wrong, or the image of
            `spec` is not 3-D.
    """
    if spec.axes != "xyz":
        raise InputError(f"An exam cannot be put on a grid with axes {spec.axes!r}.", "Use a model of volumes ('xyz').")
    source = _read_channel(exam, spec.channels[0])
    reference = reorient(source, spec.orientation or source.orientation)
    others = [_map_to(_read_channel(exam, channel), reference, exam, channel) for channel in spec.channels[1:]]
    return [reference, *others], source


def load_exam(exam: Exam, spec: ImageSpec) -> PreparedExam:
    """Reads an exam and puts it on a model's grid.

    The first channel is reoriented; the others are resampled on its grid by their affines; intensities are mapped
    there; then all go to the model's spacing and are cut or extended around the middle to its shape. New voxels are 0.

    Args:
        exam: What to read.
        spec: A 3-D image: axes `xyz`.

    Returns:
        The prepared exam.

    Raises:
        InputError: A file cannot be used, the channels do not overlap in space, a channel has no contrast or a wrong
            unit, or the image of `spec` is not 3-D.
    """
    channels, source = read_aligned(exam, spec)
    grid: Volume | None = None
    arrays, params, percentiles = [], [], []
    for channel, volume in zip(spec.channels, channels, strict=True):
        try:
            unit, bounds = parse_intensity(channel.intensity).apply(volume.data)
        except InputError as error:
            raise InputError(f"Exam {exam.id!r}, channel {channel.name!r}: {error.message}", error.remedy) from error
        mapped = Volume(unit, volume.affine)
        if spec.spacing_mm is not None:
            mapped = resample_spacing(mapped, spec.spacing_mm)
        grid = crop_or_pad(mapped, spec.shape, fill=0.0)
        # Smoothing and interpolation stay within the range up to rounding.
        arrays.append(np.clip(grid.data, 0.0, 1.0).astype(np.float32, copy=False))
        params.append(bounds)
        values = np.percentile(volume.data, PERCENTILES)
        percentiles.append({f"p{q:g}": float(value) for q, value in zip(PERCENTILES, values, strict=True)})
    assert grid is not None  # an ImageSpec has a channel
    return PreparedExam(np.stack(arrays), grid.affine, params, source.shape, source.affine, percentiles)

"""One phantom exam: images, masks, findings and report from (seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..volume import Volume, reference_affine
from .anatomy import draw_body, make_tissue_maps
from .fields import Array, centred_grid
from .findings import Findings, draw_findings
from .parameters import load_parameters
from .report import write_report
from .signal import make_images


@dataclass(frozen=True)
class PhantomExam:
    """One exam with known truth; every volume is [x, y, z] RAS on one grid.

    Attributes:
        id: `<patient>_1`: a patient has one study.
        patient_id: `phantom<institution>s<seed>-<index>`; collections of other seeds show other patients.
        t2w: T2-weighted image, whole numbers in arbitrary units.
        hbv: Diffusion-weighted image at b = 1600 s/mm2, whole numbers in arbitrary units.
        adc: ADC map in 1e-6 mm2/s, whole numbers.
        anatomy: uint8 labels, see `anatomy.LABELS`.
        lesions: uint8, the lesion's number in the findings from 1.
        findings: The structured truth.
        report: The radiology report that states it.
    """

    id: str
    patient_id: str
    t2w: Volume
    hbv: Volume
    adc: Volume
    anatomy: Volume
    lesions: Volume
    findings: Findings
    report: str


STUDY = "1"


def collection_name(seed: int, institution: int) -> str:
    """What the patients of one seed and institution are called by."""
    return f"phantom{institution}s{seed}"


def patient_id(seed: int, index: int, institution: int) -> str:
    """Identifier of a patient."""
    return f"{collection_name(seed, institution)}-{index:05d}"


def exam_id(seed: int, index: int, institution: int) -> str:
    """Identifier of an exam, also the stem of its files: patient and study, as PI-CAI names them."""
    return f"{patient_id(seed, index, institution)}_{STUDY}"


def _stream(seed: int, index: int, institution: int, purpose: int) -> np.random.Generator:
    # One stream per purpose: a change in one (another grid, another sentence) leaves the others as they are.
    return np.random.default_rng([seed, index, institution, purpose])


def exam_findings(
    seed: int, index: int, institution: int, prevalence: float | None = None, even_places: bool = False
) -> Findings:
    """The findings that `make_exam` shows for the same arguments, without its images."""
    return draw_findings(_stream(seed, index, institution, 0), institution, prevalence, even_places)


def check_request(seed: int, index: int, institution: int, shape: Sequence[int], spacing_mm: Sequence[float]) -> None:
    """Raises InputError for numbers that no exam can be made from."""
    if seed < 0 or index < 0:
        raise InputError(f"The phantom's seed is {seed} and its index {index}.", "Use whole numbers from 0.")
    if institution not in load_parameters().institutions:
        raise InputError(f"There is no phantom institution {institution!r}.", "Use 1 or 2.")
    if len(shape) != 3 or min(shape) < 8:
        raise InputError(f"The phantom's shape is {tuple(shape)}.", "Give three sizes x, y, z of at least 8 voxels.")
    if len(spacing_mm) != 3 or not all(0.1 <= mm <= 20.0 for mm in spacing_mm):
        raise InputError(f"The phantom's spacing is {tuple(spacing_mm)} mm.", "Give three spacings from 0.1 to 20 mm.")


def make_exam(
    seed: int,
    index: int,
    *,
    institution: int = 1,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    prevalence: float | None = None,
    even_places: bool = False,
) -> PhantomExam:
    """Makes one exam; the same arguments always give the same exam, and the anatomy does not depend on the grid.

    Args:
        seed: Seed of the collection, from 0.
        index: Number of the exam in the collection, from 0.
        institution: 1 or 2, see `phantom.toml`.
        shape: Voxels along x, y, z; None for the institution's.
        spacing_mm: Voxel size along x, y, z; None for the institution's.
        prevalence: Probability of a lesion, 0..1; None for the published rate.
        even_places: Lesions in all sectors alike, not as often as cancer is found there.

    Raises:
        InputError: An argument is out of range.
    """
    acquisition = load_parameters().institutions.get(institution)
    shape = tuple(int(n) for n in (shape or (acquisition.shape if acquisition else ())))
    spacing_mm = tuple(float(mm) for mm in (spacing_mm or (acquisition.spacing_mm if acquisition else ())))
    check_request(seed, index, institution, shape, spacing_mm)
    findings = exam_findings(seed, index, institution, prevalence, even_places)
    body = draw_body(_stream(seed, index, institution, 1), findings)
    grid = centred_grid(shape, spacing_mm)
    maps = make_tissue_maps(body, grid)
    images = make_images(_stream(seed, index, institution, 2), maps, grid, findings)
    affine = reference_affine(shape, spacing_mm)

    def volume(data: Array) -> Volume:
        return Volume(data, affine)

    return PhantomExam(
        id=exam_id(seed, index, institution),
        patient_id=patient_id(seed, index, institution),
        t2w=volume(images.t2w),
        hbv=volume(images.hbv),
        adc=volume(images.adc),
        anatomy=volume(maps.labels),
        lesions=volume(maps.lesions),
        findings=findings,
        report=write_report(findings, _stream(seed, index, institution, 3)),
    )

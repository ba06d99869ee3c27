"""The structured findings of a phantom exam: the truth that its images show and its report states.

Every number is rounded the way a report states it (whole millimetres, whole millilitres), so the text and the record
agree exactly.

Volumes, prevalence and the PI-RADS mix of `draw_findings` follow the 1500 public exams of PI-CAI (Saha et al.,
Lancet Oncology 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, pi
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from .lesion import (
    LEVELS,
    SECTORS,
    SIDES,
    ZONES,
    Lesion,
    invades_vesicles,
    lesion_rank,
    require_fields,
    require_one_of,
    require_range,
)

__all__ = ["Findings", "Lesion", "draw_findings"]

BPH_GRADES = ("none", "mild", "moderate", "marked")
PROSTATITIS = (None, "left", "right", "diffuse")
HAEMORRHAGE = (None, "left", "right", "both")
RECTUM = ("gas", "stool", "empty")
BLADDER = ("full", "partly filled", "empty")
QUALITY = ("good", "motion", "rectal gas artefact")
HISTORY = ("elevated PSA", "prior negative biopsy", "active surveillance", "abnormal rectal examination", "screening")

PREVALENCE = 0.28
PIRADS_RATES = (0.23, 0.40, 0.37)  # categories 3, 4, 5 among lesions
# Where cancer is found: by zone, and by sector in the order of SECTORS.
ZONE_RATES = (0.7, 0.3)
SECTOR_RATES = {"PZ": (0.5, 0.3, 0.2), "TZ": (0.65, 0.35)}
LESION_COUNT_RATES = (0.70, 0.23, 0.07)  # one, two, three lesions among positives
VOLUME_MEDIAN_ML = 57.0
VOLUME_LOG_SD = 0.514  # quartiles 40 and 80 mL
VOLUME_RANGE_ML = (20, 150)
BPH_UPPER_ML = (30.0, 50.0, 80.0)  # none, mild, moderate below these volumes

Option = TypeVar("Option")


@dataclass(frozen=True)
class Findings:
    """What one phantom exam shows.

    Attributes:
        institution: 1 or 2.
        age: Years.
        psa_ng_ml: Serum PSA in ng/mL, one decimal.
        volume_ml: Gland volume in mL, pi/6 times the product of the dimensions, rounded.
        dimensions_mm: Transverse, anteroposterior and craniocaudal size in mm.
        bph: Grade of benign hyperplasia.
        lesions: Lesions, the index lesion (highest PI-RADS, then largest) first; at most three.
        prostatitis: Side of inflammatory change in the PZ, `diffuse`, or None.
        haemorrhage: Side of post-biopsy haemorrhage, `both`, or None.
        rectum: Content of the rectum.
        bladder: Filling of the bladder.
        quality: Image quality; `rectal gas artefact` needs gas in the rectum.
        seminal_vesicle_invasion: Only with a PI-RADS 5 lesion of the PZ at the base.
        history: Why the exam was done.
        prior_mri: Whether an earlier MRI is available for comparison.

    Raises:
        InputError: A field is outside its set or two fields contradict each other.
    """

    institution: int
    age: int
    psa_ng_ml: float
    volume_ml: int
    dimensions_mm: tuple[int, int, int]
    bph: str
    lesions: tuple[Lesion, ...]
    prostatitis: str | None
    haemorrhage: str | None
    rectum: str
    bladder: str
    quality: str
    seminal_vesicle_invasion: bool
    history: str
    prior_mri: bool

    def __post_init__(self) -> None:
        require_one_of("institution", self.institution, (1, 2))
        require_range("age", self.age, 18, 110)
        require_range("psa_ng_ml", self.psa_ng_ml, 0, 5000)
        require_range("volume_ml", self.volume_ml, 5, 400)
        if len(self.dimensions_mm) != 3:
            raise InputError(f"dimensions_mm has {len(self.dimensions_mm)} numbers.", "Give transverse, ap and cc.")
        for size_mm in self.dimensions_mm:
            require_range("dimensions_mm", size_mm, 10, 150)
        require_one_of("bph", self.bph, BPH_GRADES)
        require_one_of("prostatitis", self.prostatitis, PROSTATITIS)
        require_one_of("haemorrhage", self.haemorrhage, HAEMORRHAGE)
        require_one_of("rectum", self.rectum, RECTUM)
        require_one_of("bladder", self.bladder, BLADDER)
        require_one_of("quality", self.quality, QUALITY)
        require_one_of("history", self.history, HISTORY)
        self._check_lesions()
        if self.quality == "rectal gas artefact" and self.rectum != "gas":
            raise InputError(f"quality is 'rectal gas artefact' and rectum is {self.rectum!r}.", "Set rectum to 'gas'.")

    def _check_lesions(self) -> None:
        if len(self.lesions) > 3:
            raise InputError(f"There are {len(self.lesions)} lesions.", "Give at most three.")
        if list(self.lesions) != sorted(self.lesions, key=lesion_rank):
            raise InputError("The lesions are out of order.", "Put the highest PI-RADS first, then the largest.")
        regions = {(lesion.zone, lesion.side, lesion.level) for lesion in self.lesions}
        if len(regions) < len(self.lesions):
            raise InputError("Two lesions share one zone, side and level.", "Give each lesion a region of its own.")
        if self.seminal_vesicle_invasion and not any(invades_vesicles(lesion) for lesion in self.lesions):
            raise InputError(
                "seminal_vesicle_invasion is true without a lesion that could cause it.",
                "Add a PI-RADS 5 lesion of the peripheral zone at the base.",
            )

    @property
    def positive(self) -> bool:
        """Whether any lesion is PI-RADS 3 or above."""
        return any(lesion.pirads >= 3 for lesion in self.lesions)

    @property
    def organ_confined(self) -> bool:
        """Whether there are lesions and none extends beyond the prostate or into the seminal vesicles."""
        beyond = self.seminal_vesicle_invasion or any(lesion.extension for lesion in self.lesions)
        return bool(self.lesions) and not beyond

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` gives back an equal record."""
        data = asdict(self)
        data["dimensions_mm"] = list(self.dimensions_mm)
        data["lesions"] = [lesion.to_dict() for lesion in self.lesions]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        """Read what `to_dict` wrote; raises InputError on an unknown, missing or wrong field."""
        require_fields(cls, data)
        values = dict(data)
        values["dimensions_mm"] = tuple(values["dimensions_mm"])
        values["lesions"] = tuple(Lesion.from_dict(lesion) for lesion in values["lesions"])
        return cls(**values)


def _choose(rng: np.random.Generator, options: Sequence[Option], rates: Sequence[float] | None = None) -> Option:
    return options[int(rng.choice(len(options), p=rates))]


def _draw_gland(rng: np.random.Generator) -> tuple[int, tuple[int, int, int]]:
    """Draw (volume_ml, dimensions_mm); the volume is the ellipsoid of the rounded dimensions, as reports compute it."""
    while True:
        volume_mm3 = 1000 * VOLUME_MEDIAN_ML * float(np.exp(rng.normal(0.0, VOLUME_LOG_SD)))
        transverse = rng.normal(1.22, 0.05)  # relative to the craniocaudal size
        anteroposterior = rng.normal(0.82, 0.05)
        craniocaudal_mm = (volume_mm3 * 6 / pi / (transverse * anteroposterior)) ** (1 / 3)
        sizes = (round(transverse * craniocaudal_mm), round(anteroposterior * craniocaudal_mm), round(craniocaudal_mm))
        volume_ml = round(pi / 6 * sizes[0] * sizes[1] * sizes[2] / 1000)
        if VOLUME_RANGE_ML[0] <= volume_ml <= VOLUME_RANGE_ML[1]:
            return volume_ml, sizes


def _draw_diameter(rng: np.random.Generator, pirads: int, gland_ap_mm: int) -> tuple[int, bool]:
    """Draw (diameter_mm, extension) that PI-RADS v2.1 allows for the category and the gland can hold."""
    if pirads == 3:
        return int(rng.integers(7, 15)), False
    if pirads == 4:
        return int(rng.integers(7, 15)), False
    if rng.random() < 0.12:  # small, but beyond the capsule
        return int(rng.integers(11, 15)), True
    largest_mm = max(18, min(30, round(0.62 * gland_ap_mm)))
    diameter_mm = 15 + int((largest_mm - 15 + 1) * float(rng.beta(1.2, 1.8)))
    return diameter_mm, bool(rng.random() < 0.02 * diameter_mm)


def _draw_lesions(rng: np.random.Generator, gland_ap_mm: int, even_places: bool) -> tuple[Lesion, ...]:
    sectors_of_both = sum(map(len, SECTORS.values()))
    zone_rates = [len(SECTORS[zone]) / sectors_of_both for zone in ZONES] if even_places else ZONE_RATES
    count = _choose(rng, (1, 2, 3), LESION_COUNT_RATES)
    taken: set[tuple[str, str, str]] = set()
    lesions: list[Lesion] = []
    while len(lesions) < count:
        zone, side, level = _choose(rng, ZONES, zone_rates), _choose(rng, SIDES), _choose(rng, LEVELS)
        if (zone, side, level) in taken:
            continue
        taken.add((zone, side, level))
        pirads = _choose(rng, (3, 4, 5), PIRADS_RATES)
        diameter_mm, extension = _draw_diameter(rng, pirads, gland_ap_mm)
        sector = _choose(rng, SECTORS[zone], None if even_places else SECTOR_RATES[zone])
        if extension and zone == "TZ":
            sector = "anterior"  # the transition zone meets the outside through the anterior stroma
        lesions.append(Lesion(zone, side, level, sector, float(diameter_mm), pirads, extension))
    return tuple(sorted(lesions, key=lesion_rank))


def _draw_history(rng: np.random.Generator) -> tuple[str, str | None]:
    """Draw (history, haemorrhage); blood is seen after a biopsy only."""
    history = _choose(rng, HISTORY, (0.46, 0.18, 0.14, 0.12, 0.10))
    biopsied = history in ("prior negative biopsy", "active surveillance")
    if biopsied and rng.random() < 0.35:
        return history, _choose(rng, ("left", "right", "both"))
    return history, None


def draw_findings(
    rng: np.random.Generator, institution: int = 1, prevalence: float | None = None, even_places: bool = False
) -> Findings:
    """Draw the findings of one phantom exam.

    Args:
        rng: The exam's own generator.
        institution: 1 or 2; both share the rates.
        prevalence: Probability of at least one lesion, 0..1; None means 0.28.
        even_places: Every sector of both zones is as likely as any other, not as often as cancer is found there.

    Returns:
        Findings whose gland volumes are 20..150 mL (median 57, quartiles 40 and 80).

    Raises:
        InputError: The prevalence is not a probability or the institution is unknown.
    """
    rate = PREVALENCE if prevalence is None else prevalence
    if not 0 <= rate <= 1:
        raise InputError(f"prevalence is {prevalence!r}.", "Give a probability from 0 to 1.")
    volume_ml, dimensions_mm = _draw_gland(rng)
    lesions = _draw_lesions(rng, dimensions_mm[1], even_places) if rng.random() < rate else ()
    history, haemorrhage = _draw_history(rng)
    grade = sum(volume_ml * float(np.exp(rng.normal(0.0, 0.1))) >= upper for upper in BPH_UPPER_ML)
    log_psa = log(5.5) + 0.5 * log(volume_ml / VOLUME_MEDIAN_ML) + 0.25 * len(lesions)
    log_psa += 0.45 * max((lesion.pirads - 3 for lesion in lesions), default=0)
    rectum = _choose(rng, RECTUM, (0.35, 0.30, 0.35))
    quality = "motion" if rng.random() < 0.1 else "good"
    if quality == "good" and rectum == "gas" and rng.random() < 0.3:
        quality = "rectal gas artefact"
    inflamed = rng.random() < 0.14
    return Findings(
        institution=institution,
        age=int(np.clip(round(rng.normal(66, 7)), 42, 88)),
        psa_ng_ml=round(float(np.clip(np.exp(rng.normal(log_psa, 0.5)), 0.4, 150)), 1),
        volume_ml=volume_ml,
        dimensions_mm=dimensions_mm,
        bph=BPH_GRADES[grade],
        lesions=lesions,
        prostatitis=_choose(rng, ("left", "right", "diffuse")) if inflamed else None,
        haemorrhage=haemorrhage,
        rectum=rectum,
        bladder=_choose(rng, BLADDER, (0.3, 0.45, 0.25)),
        quality=quality,
        seminal_vesicle_invasion=any(map(invades_vesicles, lesions)) and bool(rng.random() < 0.4),
        history=history,
        prior_mri=bool(rng.random() < (0.75 if history == "active surveillance" else 0.2)),
    )

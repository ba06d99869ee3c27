"""Where the exams of a phantom collection lie on disk: the PI-CAI layout, and its marksheet.

<out>/<patient>/<id>_{t2w,hbv,adc}.nii.gz     images, int16
<out>/masks/<id>_{anatomy,lesions}.nii.gz     labels, uint8
<out>/findings/<id>.json                      the structured truth
<out>/reports/<id>.txt                        the report that states it
<out>/marksheet.csv                           one row per exam
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import remove_remains, write_text
from ..errors import InputError
from ..layouts import MARKSHEET, PHANTOM_CENTER, read_table
from ..locks import FileLock, LockUnsupportedError
from .exam import STUDY, check_request, collection_name, exam_id, patient_id
from .findings import Findings
from .parameters import load_parameters

CHANNELS = ("t2w", "hbv", "adc")
MASKS = ("anatomy", "lesions")
MARKSHEET_COLUMNS = (
    "patient_id",
    "study_id",
    "patient_age",
    "psa",
    "psad",
    "prostate_volume",
    "lesion_PIRADS",
    "case_csPCa",
    "center",
)
MARKSHEET_WAIT_S = 60.0

Rows = dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True)
class Collection:
    """The exams of one institution and seed in a folder, and what they are made with; picklable.

    A folder may hold several collections: their exams have different ids.
    """

    out: Path
    seed: int
    institution: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    prevalence: float | None
    even_places: bool = False

    @property
    def name(self) -> str:
        """Tells the collections of a folder apart."""
        return collection_name(self.seed, self.institution)

    def settings(self) -> dict[str, Any]:
        """What all exams of the collection share, JSON-able."""
        return {
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing_mm),
            "prevalence": self.prevalence,
            # Said where it is so: collections that were made before there was a choice are the others.
            **({"even_places": True} if self.even_places else {}),
        }

    def exams(self, indices: Sequence[int]) -> list[PhantomFiles]:
        """The files of some exams."""
        return [PhantomFiles(self, index) for index in indices]


@dataclass(frozen=True)
class PhantomFiles:
    """The files of exam `index` of a collection."""

    collection: Collection
    index: int

    @property
    def id(self) -> str:
        return exam_id(self.collection.seed, self.index, self.collection.institution)

    @property
    def patient_id(self) -> str:
        return patient_id(self.collection.seed, self.index, self.collection.institution)

    @property
    def images(self) -> dict[str, Path]:
        folder = self.collection.out / self.patient_id
        return {name: folder / f"{self.id}_{name}.nii.gz" for name in CHANNELS}

    @property
    def masks(self) -> dict[str, Path]:
        return {name: self.collection.out / "masks" / f"{self.id}_{name}.nii.gz" for name in MASKS}

    @property
    def findings(self) -> Path:
        return self.collection.out / "findings" / f"{self.id}.json"

    @property
    def report(self) -> Path:
        return self.collection.out / "reports" / f"{self.id}.txt"

    @property
    def files(self) -> list[Path]:
        return [*self.images.values(), *self.masks.values(), self.findings, self.report]


def plan_collection(
    out: Path | str,
    seed: int,
    *,
    institution: int = 1,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    prevalence: float | None = None,
    even_places: bool = False,
    start: int = 0,
) -> Collection:
    """Checks what is asked for.

    Args:
        out: Folder of the collection.
        seed: Seed of the collection, from 0.
        institution: 1 or 2.
        shape: Voxels along x, y, z; None for the institution's.
        spacing_mm: Voxel size along x, y, z; None for the institution's.
        prevalence: Probability of a lesion, 0..1; None for the published rate.
        even_places: Lesions in all sectors alike, not as often as cancer is found there.
        start: Index of the first exam that is to be made.

    Raises:
        InputError: A number is out of range.
    """
    acquisition = load_parameters().institutions.get(institution)
    sizes = tuple(shape or (acquisition.shape if acquisition else ()))
    millimetres = tuple(spacing_mm or (acquisition.spacing_mm if acquisition else ()))
    check_request(seed, start, institution, sizes, millimetres)
    if prevalence is not None and not 0 <= prevalence <= 1:
        raise InputError(f"The prevalence is {prevalence}.", "Give a probability from 0 to 1.")
    grid = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    spacing = (float(millimetres[0]), float(millimetres[1]), float(millimetres[2]))
    return Collection(Path(out), seed, institution, grid, spacing, prevalence, even_places)


def remove_exams(collection: Collection, indices: Sequence[int] | None = None) -> None:
    """Removes a collection's exams and their rows of the marksheet, or those of some indices; nothing else."""
    out, name = collection.out, collection.name
    if indices is None:
        patterns = (
            f"{name}-*/{name}-*_{STUDY}_*.nii.gz", f"masks/{name}-*_{STUDY}_*.nii.gz",
            f"findings/{name}-*_{STUDY}.json", f"reports/{name}-*_{STUDY}.txt",
        )  # fmt: skip
        doomed = [path for pattern in patterns for path in out.glob(pattern)]
    else:
        doomed = [path for exam in collection.exams(indices) for path in exam.files]
    for path in doomed:
        path.unlink(missing_ok=True)
        folder = path.parent
        if folder.name.startswith(f"{name}-") and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    patients = None if indices is None else {exam.patient_id for exam in collection.exams(indices)}

    def keep(rows: Rows) -> Rows:
        def goes(patient: str) -> bool:
            return patient.startswith(f"{name}-") if patients is None else patient in patients

        return {(patient, study): row for (patient, study), row in rows.items() if not goes(patient)}

    if (out / MARKSHEET).is_file():
        _change_marksheet(out, keep)


def marksheet_row(exam: PhantomFiles, findings: Findings) -> dict[str, str]:
    """The row of an exam."""
    return {
        "patient_id": exam.patient_id,
        "study_id": STUDY,
        "patient_age": str(findings.age),
        "psa": f"{findings.psa_ng_ml:g}",
        "psad": f"{findings.psa_ng_ml / findings.volume_ml:.2f}",
        "prostate_volume": f"{findings.volume_ml:g}",
        "lesion_PIRADS": ",".join(str(lesion.pirads) for lesion in findings.lesions),
        "case_csPCa": "YES" if findings.positive else "NO",
        "center": f"{PHANTOM_CENTER}{exam.collection.institution}",
    }


def read_marksheet(out: Path) -> Rows:
    """The marksheet's rows by patient and study; none where there is no marksheet.

    Raises:
        InputError: It cannot be read, or has other columns: adding rows to it would lose cells.
    """
    path = out / MARKSHEET
    if not path.is_file():
        return {}
    rows = read_table(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), list(MARKSHEET_COLUMNS))
    different = [column for column in header if column not in MARKSHEET_COLUMNS]
    different += [column for column in MARKSHEET_COLUMNS if column not in header]
    if different:
        more = "..." if len(different) > 3 else ""
        raise InputError(
            f"{path} is not a marksheet of phantoms: its columns differ in {', '.join(different[:3])}{more}.",
            "Give another folder with -o, or move the marksheet away.",
        )
    return {(row["patient_id"], row["study_id"]): row for row in rows}


def add_to_marksheet(out: Path, rows: Rows) -> None:
    """Merges rows by patient and study, so that a collection can grow in pieces."""
    _change_marksheet(out, lambda merged: merged | rows)


def _change_marksheet(out: Path, change: Callable[[Rows], Mapping[tuple[str, str], dict[str, str]]]) -> None:
    """Reads, changes and writes the marksheet, sorted by patient and study."""
    path = out / MARKSHEET
    with _marksheet_lock(out):
        remove_remains([path])
        changed = change(read_marksheet(out))
        text = io.StringIO()
        writer = csv.DictWriter(text, MARKSHEET_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(changed[key] for key in sorted(changed))
        write_text(path, text.getvalue())


@contextmanager
def _marksheet_lock(out: Path) -> Iterator[None]:
    """Lets the processes that write pieces of one collection merge their rows one after another."""
    (out / ".ccella").mkdir(exist_ok=True)
    lock = FileLock(out / ".ccella" / "marksheet.lock")
    try:
        # Merging takes milliseconds; a file system without locks is used as it is.
        with suppress(LockUnsupportedError):
            lock.acquire(wait_s=MARKSHEET_WAIT_S)
        yield
    finally:
        lock.release()

"""Collections of phantom exams on disk, in the PI-CAI layout.

<out>/<patient>/<id>_{t2w,hbv,adc}.nii.gz     images, int16
<out>/masks/<id>_{anatomy,lesions}.nii.gz     labels, uint8
<out>/findings/<id>.json                      the structured truth
<out>/reports/<id>.txt                        the report that states it
<out>/marksheet.csv                           one row per exam
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import multiprocessing
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import remove_remains, write_json, write_text
from ..errors import InputError
from ..files import read_volume, write_volume
from ..locks import FileLock, LockUnsupportedError
from .exam import check_request, exam_findings, exam_id, make_exam
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
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class _Request:
    """One exam to write; picklable, so that a fresh process can do it."""

    out: Path
    seed: int
    index: int
    institution: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    prevalence: float | None

    @property
    def id(self) -> str:
        return exam_id(self.seed, self.index, self.institution)

    @property
    def images(self) -> dict[str, Path]:
        folder = self.out / self.id.split("_", 1)[0]
        return {name: folder / f"{self.id}_{name}.nii.gz" for name in CHANNELS}

    @property
    def masks(self) -> dict[str, Path]:
        return {name: self.out / "masks" / f"{self.id}_{name}.nii.gz" for name in MASKS}

    @property
    def findings(self) -> Path:
        return self.out / "findings" / f"{self.id}.json"

    @property
    def report(self) -> Path:
        return self.out / "reports" / f"{self.id}.txt"

    @property
    def files(self) -> list[Path]:
        return [*self.images.values(), *self.masks.values(), self.findings, self.report]


def write_phantoms(
    out: Path,
    count: int,
    seed: int,
    *,
    institution: int = 1,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    prevalence: float | None = None,
    start: int = 0,
    workers: int = 2,
) -> Iterator[dict[str, Any]]:
    """Writes exams `start` to `start + count - 1` and yields one record each, in order; complete exams are kept.

    Exam `index` is the same whatever `count`, `start` and `workers` are.

    Args:
        out: Folder of the collection; made where it is missing.
        count: How many exams.
        seed: Seed of the collection, from 0.
        institution: 1 or 2.
        shape: Voxels along x, y, z; None for the institution's.
        spacing_mm: Voxel size along x, y, z; None for the institution's.
        prevalence: Probability of a lesion, 0..1; None for the published rate.
        start: Index of the first exam.
        workers: Processes, each with one thread; 1 works in this process.

    Yields:
        `id`, `patient_id`, `files` (path per channel), `masks`, `report_path`, `findings_path`, `text` (the report),
        `class` (1 with a lesion of PI-RADS 3 or more), `spacing_mm`, `written` (False where
        the exam was complete already).

    Raises:
        InputError: A number is out of range.
        OSError: The folder cannot be written or is full.
    """
    if count < 0 or workers < 1:
        raise InputError(f"{count} exams were asked of {workers} workers.", "Give a count from 0 and a worker or more.")
    acquisition = load_parameters().institutions.get(institution)
    sizes = tuple(shape or (acquisition.shape if acquisition else ()))
    millimetres = tuple(spacing_mm or (acquisition.spacing_mm if acquisition else ()))
    check_request(seed, start, institution, sizes, millimetres)
    if prevalence is not None and not 0 <= prevalence <= 1:
        raise InputError(f"The prevalence is {prevalence}.", "Give a probability from 0 to 1.")
    grid = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    spacing = (float(millimetres[0]), float(millimetres[1]), float(millimetres[2]))
    indices = range(start, start + count)
    requests = [_Request(Path(out), seed, index, institution, grid, spacing, prevalence) for index in indices]
    return _write_all(Path(out), requests, workers)


def _write_all(out: Path, requests: Sequence[_Request], workers: int) -> Iterator[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    remove_remains(path for request in requests for path in request.files)
    try:
        for record, row in _results(requests, workers):
            rows[row["patient_id"], row["study_id"]] = row
            yield record
    finally:
        # Also when the caller stops early, so that what is there can be used.
        if rows:
            with _marksheet_lock(out):
                _write_marksheet(out / "marksheet.csv", rows)


def _results(requests: Sequence[_Request], workers: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    if workers == 1 or len(requests) < 2:
        yield from map(_write_exam, requests)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(requests)), context, _leave_with_parent) as pool:
        with _one_thread():
            results = pool.map(_write_exam, requests)
        try:
            yield from results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_with_parent() -> None:
    """Ends this worker when the process that started it dies: a killed one cannot say that there is no more work."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start inside the block use one thread each: numpy reads these variables at import."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_exam(request: _Request) -> tuple[dict[str, Any], dict[str, str]]:
    findings = exam_findings(request.seed, request.index, request.institution, request.prevalence)
    kept = _is_complete(request, findings)
    if not kept:
        exam = make_exam(
            request.seed,
            request.index,
            institution=request.institution,
            shape=request.shape,
            spacing_mm=request.spacing_mm,
            prevalence=request.prevalence,
        )
        for name, path in request.images.items():
            write_volume(path, getattr(exam, name), dtype=np.int16, description=f"synthetic phantom {name}")
        for name, path in request.masks.items():
            write_volume(path, getattr(exam, name), dtype=np.uint8, description=f"synthetic phantom {name} labels")
        write_text(request.report, exam.report)
        write_json(request.findings, findings.to_dict())
    return _record(request, findings, written=not kept), _marksheet_row(request, findings)


def _is_complete(request: _Request, findings: Findings) -> bool:
    """Whether every file of the exam is there, whole, on the grid asked for, and of the same findings."""
    if not request.findings.is_file() or not request.report.is_file():
        return False
    try:
        if Findings.from_dict(json.loads(request.findings.read_text(encoding="utf-8"))) != findings:
            return False
        if not request.report.read_text(encoding="utf-8").strip():
            return False
        for path in (*request.images.values(), *request.masks.values()):
            if not path.is_file():
                return False
            volume = read_volume(path)
            if volume.shape != request.shape or not np.allclose(volume.spacing_mm, request.spacing_mm, atol=1e-4):
                return False
    except (InputError, ValueError, OSError, EOFError, zlib.error, gzip.BadGzipFile):
        return False  # a damaged file: the exam is made again
    return True


def _record(request: _Request, findings: Findings, *, written: bool) -> dict[str, Any]:
    return {
        "id": request.id,
        "patient_id": request.id.split("_", 1)[0],
        "files": {name: str(path) for name, path in request.images.items()},
        "masks": {name: str(path) for name, path in request.masks.items()},
        "report_path": str(request.report),
        "findings_path": str(request.findings),
        "text": request.report.read_text(encoding="utf-8"),
        "class": int(findings.positive),
        "spacing_mm": list(request.spacing_mm),
        "written": written,
    }


def _marksheet_row(request: _Request, findings: Findings) -> dict[str, str]:
    patient, study = request.id.split("_", 1)
    return {
        "patient_id": patient,
        "study_id": study,
        "patient_age": str(findings.age),
        "psa": f"{findings.psa_ng_ml:g}",
        "psad": f"{findings.psa_ng_ml / findings.volume_ml:.2f}",
        "prostate_volume": f"{findings.volume_ml:g}",
        "lesion_PIRADS": ",".join(str(lesion.pirads) for lesion in findings.lesions),
        "case_csPCa": "YES" if findings.positive else "NO",
        "center": f"phantom{request.institution}",
    }


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


def _write_marksheet(path: Path, rows: Mapping[tuple[str, str], dict[str, str]]) -> None:
    """Merges `rows` into the marksheet, so that a collection can grow in pieces; sorted by patient and study."""
    remove_remains([path])
    merged: dict[tuple[str, str], dict[str, str]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            merged = {(row["patient_id"], row["study_id"]): row for row in csv.DictReader(file)}
    merged.update(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, MARKSHEET_COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(merged[key] for key in sorted(merged))
    write_text(path, text.getvalue())

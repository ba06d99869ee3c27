"""Collections of phantom exams, written with several processes. `collection` says where the files lie."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..atomic import remove_remains, write_json, write_text
from ..errors import InputError
from ..files import read_volume, write_volume
from .collection import (
    Collection,
    PhantomFiles,
    Rows,
    add_to_marksheet,
    marksheet_row,
    plan_collection,
    read_marksheet,
)
from .exam import exam_findings, make_exam
from .findings import Findings

Exams = Iterator[dict[str, Any]]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def write_phantoms(out: Path, count: int, seed: int, *, start: int = 0, workers: int = 2, **options: Any) -> Exams:
    """Writes exams `start` to `start + count - 1`; the other arguments are those of `plan_collection`.

    Raises:
        InputError: See `plan_collection` and `write_exams`.
        OSError: The folder cannot be written or is full.
    """
    return write_exams(plan_collection(out, seed, start=start, **options), range(start, start + count), workers=workers)


def write_exams(collection: Collection, indices: Sequence[int], *, workers: int = 2) -> Exams:
    """Writes the exams of some indices and yields one record each, in order; complete exams are kept.

    Exam `index` is the same whatever the other indices and `workers` are.

    Args:
        collection: What the exams are made with; its folder is made where it is missing.
        indices: The exams' indices.
        workers: Processes, each with one thread; 1 works in this process.

    Returns:
        Iterator over records: `id`, `patient_id`, `files` (path per channel), `masks`, `report_path`, `findings_path`,
        `text` (the report), `class` (1 with a lesion of PI-RADS 3 or more), `spacing_mm`, `written` (False where
        the exam was complete already).

    Raises:
        InputError: There are no workers, the folder has a marksheet of something else, or an exam that is there
            was made with other arguments; nothing is overwritten.
        OSError: The folder cannot be written or is full.
    """
    if workers < 1:
        raise InputError(f"{workers} processes were asked for.", "Give one or more.")
    read_marksheet(collection.out)
    return _write_all(collection.out, collection.exams(indices), workers)


def _write_all(out: Path, exams: Sequence[PhantomFiles], workers: int) -> Exams:
    rows: Rows = {}
    remove_remains(path for exam in exams for path in exam.files)
    try:
        for record, row in _results(exams, workers):
            rows[row["patient_id"], row["study_id"]] = row
            yield record
    finally:
        # Also when the caller stops early, so that what is there can be used.
        if rows:
            add_to_marksheet(out, rows)


def _results(exams: Sequence[PhantomFiles], workers: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    if workers == 1 or len(exams) < 2:
        for exam in exams:
            # As a worker would: with several threads the matrix products of some processors round otherwise.
            with threadpool_limits(1):
                result = _write_exam(exam)
            yield result
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(exams)), context, _leave_with_parent) as pool:
        with _one_thread():
            results = pool.map(_write_exam, exams)
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


def _write_exam(files: PhantomFiles) -> tuple[dict[str, Any], dict[str, str]]:
    made = files.collection
    findings = exam_findings(made.seed, files.index, made.institution, made.prevalence, made.even_places)
    kept = _is_complete(files, findings)
    if not kept:
        exam = make_exam(
            made.seed,
            files.index,
            institution=made.institution,
            shape=made.shape,
            spacing_mm=made.spacing_mm,
            prevalence=made.prevalence,
            even_places=made.even_places,
        )
        for name, path in files.images.items():
            write_volume(path, getattr(exam, name), dtype=np.int16, description=f"synthetic phantom {name}")
        for name, path in files.masks.items():
            write_volume(path, getattr(exam, name), dtype=np.uint8, description=f"synthetic phantom {name} labels")
        write_text(files.report, exam.report)
        write_json(files.findings, findings.to_dict())
    return _record(files, findings, written=not kept), marksheet_row(files, findings)


def _is_complete(files: PhantomFiles, findings: Findings) -> bool:
    """Whether every file of the exam is there and whole.

    Raises:
        InputError: A whole file is that of another exam: of other findings or on another grid.
    """
    complete, collection = True, files.collection
    try:
        stored = json.loads(files.findings.read_text(encoding="utf-8"))
        complete = bool(files.report.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        stored, complete = None, False  # missing or damaged: the exam is made again
    if stored is not None and stored != json.loads(json.dumps(findings.to_dict())):
        raise _made_otherwise(files.findings, "made with another --prevalence or --even-places, or by another version")
    for path in (*files.images.values(), *files.masks.values()):
        try:
            volume = read_volume(path)
        except (InputError, ValueError, OSError, EOFError, zlib.error, gzip.BadGzipFile):
            complete = False
            continue
        if volume.shape != collection.shape or not np.allclose(volume.spacing_mm, collection.spacing_mm, atol=1e-4):
            sizes, steps = (" x ".join(f"{each:g}" for each in row) for row in (volume.shape, volume.spacing_mm))
            raise _made_otherwise(path, f"with {sizes} voxels of {steps} mm")
    return complete


def _made_otherwise(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is there already, {what}.",
        "Give the options of the first run, or another folder; `ccella phantom --overwrite` makes the exams anew.",
    )


def _record(files: PhantomFiles, findings: Findings, *, written: bool) -> dict[str, Any]:
    return {
        "id": files.id,
        "patient_id": files.patient_id,
        "files": {name: str(path) for name, path in files.images.items()},
        "masks": {name: str(path) for name, path in files.masks.items()},
        "report_path": str(files.report),
        "findings_path": str(files.findings),
        "text": files.report.read_text(encoding="utf-8"),
        "class": int(findings.positive),
        "spacing_mm": list(files.collection.spacing_mm),
        "written": written,
    }

"""`evaluate prompt`: do generated exams show what their reports say? Measured on phantoms, whose reports are true."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..imaging.errors import InputError
from ..imaging.exams import Exam, find_exams, load_exam
from ..imaging.phantom.findings import Findings
from ..imaging.spec import ImageSpec
from ..metrics.classification import classification_figures
from ..metrics.prompt_fidelity import Reading, Truth, bootstrap_intervals, compare_places, compare_readings, read_exam
from ..pipeline.provenance import versions
from ..zoo.phantom_reader import POOL, WEIGHTS, load_reader, segment
from ..zoo.record import group_items
from ..zoo.registry import DEFAULT_MODEL, find_card
from ..zoo.runs import find_manifests, read_run
from .images import SCHEMA

if TYPE_CHECKING:
    from torch import nn

LEAST_EXAMS = 10
REPEATS = 1000


def evaluate_prompt(
    synthetic: Path,
    phantoms: Path,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Reads generated exams and the phantoms whose reports were their prompts with one reader, and compares.

    Args:
        synthetic: Exams generated from the reports, under the same ids.
        phantoms: What `ccella phantom` wrote: the reports' truth, and the ceiling of every figure.
        repeats: Resamples of the bootstrap.
        seed: Its seed.
        on_item: Told exams done and their total.

    Returns:
        JSON-able: figures with intervals of both, side and zone by the lesions' places, and the area under the class
        head's ROC curve where the sidecars state its probability.

    Raises:
        InputError: There are no findings, an id has none, fewer than 10 exams, or all are of one kind.
        WeightsMissingError, DigestMismatchError: The reader's weights are gone or changed.
    """
    # The reader knows the grid of the bundled model, and no other.
    spec = find_card(DEFAULT_MODEL).image
    names = [channel.name for channel in spec.channels]
    generated = {exam.id: exam for exam in find_exams(synthetic, names)}
    originals = {exam.id: exam for exam in find_exams(phantoms, names)}
    truths = _read_truths(generated, phantoms, originals)
    reader = load_reader()
    done, total = 0, 2 * len(truths)
    results: dict[str, Any] = {}
    for label, exams in (("phantoms", originals), ("synthetic", generated)):
        readings = []
        for identifier in truths:
            readings.append(_read(reader, exams[identifier], spec))
            done += 1
            on_item(done, total)
        results[label] = _compare(readings, list(truths.values()), repeats, seed)
    return {
        "schema": SCHEMA,
        "kind": "prompt",
        "reader": {"path": WEIGHTS.path, "sha256": WEIGHTS.sha256},
        "sources": {"synthetic": str(synthetic), "phantoms": str(phantoms)},
        "exams": len(truths),
        "positives": sum(truth.positive for truth in truths.values()),
        "bootstrap": {"repeats": repeats},
        "seed": seed,
        "versions": versions(),
        **results,
        "class_head_auc": _class_head_auc(synthetic, truths),
        "ids": list(truths),
        "truths": [asdict(truth) for truth in truths.values()],
    }


def truth_of(findings: Findings) -> Truth:
    """The index lesion of a phantom, as its report states it."""
    if not findings.lesions:
        return Truth(False)
    index = findings.lesions[0]
    return Truth(True, index.side, index.zone, float(index.diameter_mm), index.sector)


def _read(reader: "nn.Module", exam: Exam, spec: ImageSpec) -> Reading:
    assert spec.spacing_mm is not None  # the bundled card states it
    x, y, z = spec.spacing_mm
    return read_exam(*segment(reader, load_exam(exam, spec).array), (x * POOL, y * POOL, z))


def _read_truths(generated: Mapping[str, Exam], phantoms: Path, originals: Mapping[str, Exam]) -> dict[str, Truth]:
    if len(generated) < LEAST_EXAMS:
        raise InputError(f"There are {len(generated)} generated exams; at least {LEAST_EXAMS} are due.", "Sample more.")
    truths = {}
    for identifier in sorted(generated):
        path = phantoms / "findings" / f"{identifier}.json"
        if identifier not in originals or not path.is_file():
            raise InputError(
                f"The generated exam {identifier!r} has no phantom of that id in {phantoms}.",
                f"Sample from these reports, one seed each: ccella sample --prompt {phantoms / 'reports'} -o DIR",
            )
        truths[identifier] = truth_of(Findings.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    kinds = {truth.positive for truth in truths.values()}
    if len(kinds) < 2:
        raise InputError(
            f"All {len(truths)} reports are {'with' if True in kinds else 'without'} a lesion.",
            "Use reports of both kinds, such as those of `ccella phantom --prevalence 0.5`.",
        )
    return truths


def _compare(readings: Sequence[Reading], truths: Sequence[Truth], repeats: int, seed: int) -> dict[str, Any]:
    figures = compare_readings(readings, truths)
    bounds = bootstrap_intervals(readings, truths, repeats=repeats, seed=seed)
    return {
        "figures": {
            name: {"value": _finite(figures[name]), "interval": [_finite(bound) for bound in bounds[name]]}
            for name in bounds
        },
        "places": [asdict(place) for place in compare_places(readings, truths)],
        "readings": [asdict(reading) for reading in readings],
    }


def _finite(value: float) -> float | None:
    """None for a figure that these exams do not define, such as the rank correlation of equal sizes."""
    return value if math.isfinite(value) else None


def _class_head_auc(synthetic: Path, truths: Mapping[str, Truth]) -> float | None:
    """None where no manifest states probabilities, as for exams from elsewhere."""
    try:
        find_manifests(synthetic)
    except InputError:
        return None
    found = {group[0].id: group[0].data.get("class_probability") for group in group_items(read_run(synthetic))}
    probabilities = [found.get(identifier) for identifier in truths]
    if any(probability is None for probability in probabilities):
        return None
    import numpy as np

    labels = np.array([int(truth.positive) for truth in truths.values()])
    return classification_figures(labels, np.array(probabilities, float))["auc"]

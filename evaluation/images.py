"""`evaluate images`: does a synthetic set look like a real one, is it diverse, and does it repeat training exams?"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.structure import diversity
from ..pipeline.provenance import STATISTICS, versions
from ..zoo.card import Card
from ..zoo.extractors import Extractor
from .fidelity import Patients, compare_features, nearest_in_features
from .image_features import SLICE_POLICY, Summary, summarise_set
from .image_sets import ImageSet, draw_equal, open_sets
from .memorisation import Pool, audit_memorisation, refuse_shared

SCHEMA = "ccella.evaluation/1"
PAIRS = 100
VOLUME = "volume"
# What two scales of halving and a window of five voxels need.
LEAST_SSIM_SAMPLES = 20


@dataclass(frozen=True)
class ImageEvaluation:
    """What an evaluation leaves: the result, and what a report shows beside it.

    Attributes:
        document: The result, JSON-able, with everything needed to repeat it.
        sets: The sets by name.
        summaries: One per set.
    """

    document: dict[str, Any]
    sets: dict[str, ImageSet]
    summaries: dict[str, Summary]


def evaluate_images(
    real: Path,
    synthetic: Path,
    *,
    template: Card,
    own_grid: bool,
    extractors: Sequence[Extractor],
    holdout: Path | None = None,
    sequences: Sequence[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> ImageEvaluation:
    """Compares a synthetic set with a real one, sequence by sequence.

    Args:
        real: Folder or manifest of real exams, those that the model was trained on where memorisation is the question.
        synthetic: Folder or manifest of synthetic exams.
        template: A model: intensity maps, and without `own_grid` the grid.
        own_grid: Compare on the grid that all exams have.
        extractors: What computes features.
        holdout: Real exams that the model has not seen: what independence looks like to the memorisation audit.
        sequences: Which sequences; None takes the template's.
        count: Exams drawn of either set for distances; None takes all of both.
        seed: Seed of every drawing.
        on_item: Told exams done and their total.

    Returns:
        The evaluation.

    Raises:
        InputError: See `image_sets.open_sets`, `draw_equal`, `ImageSet.load`, `fidelity.compare_features` and
            `memorisation_audit.audit_memorisation`.
    """
    sources = {"real": real, "synthetic": synthetic} | ({} if holdout is None else {"holdout": holdout})
    sets = open_sets(sources, sequences=sequences, template=template, own_grid=own_grid)
    if holdout is not None:
        _check_holdout(sets["holdout"], sets["real"])
    chosen = draw_equal(sets["real"], sets["synthetic"], count, seed)
    drawn: dict[str, Sequence[int]] = {
        name: rows.tolist() for name, rows in zip(("real", "synthetic"), chosen, strict=True)
    }
    _check_size(sets["real"], extractors)
    total, done = sum(len(images) for images in sets.values()), 0

    def finish() -> None:
        nonlocal done
        done += 1
        on_item(done, total)

    summaries = {
        name: summarise_set(images, drawn.get(name, []), extractors, seed=seed, on_item=finish)
        for name, images in sets.items()
    }
    document = _document(sets, drawn, summaries, extractors, seed)
    document |= {"template": _describe_template(template, own_grid), "n": len(drawn["real"])}
    return ImageEvaluation(document, sets, summaries)


def _document(
    sets: dict[str, ImageSet],
    drawn: dict[str, Sequence[int]],
    summaries: dict[str, Summary],
    extractors: Sequence[Extractor],
    seed: int,
) -> dict[str, Any]:
    """All figures, with what is needed to repeat them."""
    spec = sets["real"].spec
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "images",
        "sets": {name: _describe(images, summaries[name]) for name, images in sets.items()},
        "seed": seed,
        "grid": {"shape": list(spec.shape), "spacing_mm": list(spec.spacing_mm or ())},
        "intensity": {channel.name: dict(channel.intensity) for channel in spec.channels},
        "slice_policy": SLICE_POLICY,
        "extractors": {extractor.card.id: extractor.describe() for extractor in extractors},
        "versions": versions(STATISTICS),
        "sequences": {
            name: {
                "fidelity": _fidelity(name, sets, drawn, summaries, extractors, seed),
                "diversity": _diversity(number, sets, summaries, seed),
                "memorisation": _memorisation(number, name, sets, summaries, seed),
            }
            for number, name in enumerate(spec.channel_names)
        },
    }
    document["flagged"] = sorted({i for s in document["sequences"].values() for i in s["memorisation"]["flagged"]})
    return document


def _check_size(images: ImageSet, extractors: Sequence[Extractor]) -> None:
    """Tries the extractors on the first exam, so that a grid too small for them is named before the long work."""
    from .image_features import extract_views

    volume = images.load(0)[0]
    for extractor in extractors:
        try:
            extract_views(extractor, volume)
        except ValueError as error:
            raise InputError(
                f"Extractor {extractor.card.id} cannot take images of {' x '.join(map(str, volume.shape))}: {error}",
                "Choose another with --features, or a larger grid with --grid NAME.",
            ) from error


def _check_holdout(holdout: ImageSet, real: ImageSet) -> None:
    """Finds what the names alone tell, before the long work."""
    refuse_shared("exam", (exam.id for exam in holdout.exams), (exam.id for exam in real.exams))
    first, second = (
        {str(path.resolve()) for exam in images.exams for path in exam.files.values()} for images in (holdout, real)
    )
    refuse_shared("file", first, second)


def _describe(images: ImageSet, summary: Summary) -> dict[str, Any]:
    ids = "\n".join(exam.id for exam in images.exams)
    files = "\n".join(" ".join((exam.id, *each)) for exam, each in zip(images.exams, summary.digests, strict=True))
    return {
        "source": str(images.source),
        "exams": len(images),
        "patients": len({exam.patient_id for exam in images.exams}),
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        "files_sha256": hashlib.sha256(files.encode()).hexdigest(),
    }


def _describe_template(template: Card, own_grid: bool) -> dict[str, Any]:
    """The card that gave intensity maps, and the grid unless the exams kept theirs, with a digest of what it says."""
    image = json.dumps(asdict(template.image), sort_keys=True)
    return {
        "id": template.id,
        "image_sha256": hashlib.sha256(image.encode()).hexdigest(),
        "gives": ["intensity"] if own_grid else ["intensity", "grid"],
    }


def _fidelity(
    name: str,
    sets: dict[str, ImageSet],
    drawn: dict[str, Sequence[int]],
    summaries: dict[str, Summary],
    extractors: Sequence[Extractor],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Per extractor and view the distances; neighbours are looked for among volumes, not among slices."""
    real, synthetic = ([sets[label].exams[i] for i in drawn[label]] for label in ("real", "synthetic"))
    patients: Patients = [exam.patient_id for exam in real], [exam.patient_id for exam in synthetic]
    ids = [exam.id for exam in real], [exam.id for exam in synthetic]
    result: dict[str, dict[str, Any]] = {}
    for extractor in extractors:
        views = result[extractor.card.id] = {}
        for key in (key for key in summaries["real"].features if key[:2] == (name, extractor.card.id)):
            x, y = (summaries[label].features[key] for label in ("real", "synthetic"))
            whole = key[2] == VOLUME
            views[key[2]] = compare_features(x, y, seed=seed, neighbours=whole, patients=patients)
            if whole:
                views[key[2]]["nearest_real"] = nearest_in_features(x[:, 0], y[:, 0], *ids, patients[0])
    return result


def _diversity(number: int, sets: dict[str, ImageSet], summaries: dict[str, Summary], seed: int) -> dict[str, Any]:
    """MS-SSIM between exams of different patients of each set; None with the reason where there is none."""
    from scipy import stats

    result: dict[str, Any] = {"metric": "ms-ssim", "scales": 3, "kernel": 5, "interval_of": "jackknife over patients"}
    for name in ("real", "synthetic"):
        chosen = sorted(summaries[name].kept.items())
        kept = [array[number] for _, array in chosen]
        patients = [sets[name].exams[index].patient_id for index, _ in chosen]
        count = len(set(patients))
        reason = f"the {name} exams are of one patient" if count < 2 else None
        if min(kept[0].shape) < LEAST_SSIM_SAMPLES:
            reason = f"an axis has under {LEAST_SSIM_SAMPLES} samples"
        if reason is not None:
            return result | {"real": None, "synthetic": None, "reason": reason}
        mean, error, pairs = diversity(kept.__getitem__, len(kept), pairs=PAIRS, seed=seed, patients=patients)
        interval = None
        if error is not None:
            margin = float(stats.t.ppf(0.975, count - 1)) * error
            interval = [mean - margin, mean + margin]
        result[name] = {"mean": mean, "interval": interval, "pairs": pairs, "exams": len(kept), "patients": count}
    return result


def _memorisation(
    number: int, name: str, sets: dict[str, ImageSet], summaries: dict[str, Summary], seed: int
) -> dict[str, Any]:
    pools = {
        label: Pool(
            np.asarray(summaries[label].small[name]),
            [exam.id for exam in images.exams],
            [exam.patient_id for exam in images.exams],
            [digests[number] for digests in summaries[label].digests],
        )
        for label, images in sets.items()
    }
    return audit_memorisation(pools["synthetic"], pools["real"], pools.get("holdout"), seed=seed)

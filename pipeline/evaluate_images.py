"""`evaluate images`: does a synthetic set look like a real one, is it diverse, and does it repeat training exams?"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.structure import diversity
from ..zoo.card import Card
from ..zoo.extractors import Extractor
from .fidelity import compare_features
from .image_features import SLICE_POLICY, Summary, summarise_set
from .image_sets import ImageSet, draw_equal, open_sets
from .memorisation_audit import Pool, audit_memorisation
from .provenance import versions

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
        InputError: See `image_sets.open_sets`, `draw_equal` and `ImageSet.load`.
    """
    sources = {"real": real, "synthetic": synthetic} | ({} if holdout is None else {"holdout": holdout})
    sets = open_sets(sources, sequences=sequences, template=template, own_grid=own_grid)
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
    document = _document(sets, summaries, extractors, seed) | {"n": len(drawn["real"])}
    return ImageEvaluation(document, sets, summaries)


def _document(
    sets: dict[str, ImageSet], summaries: dict[str, Summary], extractors: Sequence[Extractor], seed: int
) -> dict[str, Any]:
    """All figures, with what is needed to repeat them."""
    spec = sets["real"].spec
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "images",
        "sets": {name: _describe(images) for name, images in sets.items()},
        "seed": seed,
        "grid": {"shape": list(spec.shape), "spacing_mm": list(spec.spacing_mm or ())},
        "intensity": {channel.name: dict(channel.intensity) for channel in spec.channels},
        "slice_policy": SLICE_POLICY,
        "extractors": {extractor.card.id: extractor.describe() for extractor in extractors},
        "versions": versions(),
        "sequences": {
            name: {
                "fidelity": _fidelity(name, summaries, extractors, seed),
                "diversity": _diversity(number, summaries, seed),
                "memorisation": _memorisation(name, sets, summaries, seed),
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


def _describe(images: ImageSet) -> dict[str, Any]:
    ids = "\n".join(exam.id for exam in images.exams)
    return {
        "source": str(images.source),
        "exams": len(images),
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }


def _fidelity(
    name: str, summaries: dict[str, Summary], extractors: Sequence[Extractor], seed: int
) -> dict[str, dict[str, Any]]:
    """Per extractor and view the distances; neighbours are looked for among volumes, not among slices."""
    result: dict[str, dict[str, Any]] = {}
    for extractor in extractors:
        views = [key for key in summaries["real"].features if key[:2] == (name, extractor.card.id)]
        result[extractor.card.id] = {
            key[2]: compare_features(
                summaries["real"].features[key],
                summaries["synthetic"].features[key],
                seed=seed,
                neighbours=key[2] == VOLUME,
            )
            for key in views
        }
    return result


def _diversity(number: int, summaries: dict[str, Summary], seed: int) -> dict[str, Any]:
    """MS-SSIM between exams of each set; None with the reason where the grid is too small."""
    result: dict[str, Any] = {"metric": "ms-ssim", "scales": 3, "kernel": 5}
    for name in ("real", "synthetic"):
        kept = [array[number] for _, array in sorted(summaries[name].kept.items())]
        if min(kept[0].shape) < LEAST_SSIM_SAMPLES:
            return result | {
                "real": None,
                "synthetic": None,
                "reason": f"an axis has under {LEAST_SSIM_SAMPLES} samples",
            }
        mean, error, pairs = diversity(kept.__getitem__, len(kept), pairs=PAIRS, seed=seed)
        margin = 1.96 * error
        result[name] = {"mean": mean, "interval": [mean - margin, mean + margin], "pairs": pairs, "exams": len(kept)}
    return result


def _memorisation(name: str, sets: dict[str, ImageSet], summaries: dict[str, Summary], seed: int) -> dict[str, Any]:
    pools = {
        label: Pool(
            np.asarray(summaries[label].small[name]),
            [exam.id for exam in images.exams],
            [exam.patient_id for exam in images.exams],
        )
        for label, images in sets.items()
    }
    return audit_memorisation(pools["synthetic"], pools["real"], pools.get("holdout"), seed=seed)

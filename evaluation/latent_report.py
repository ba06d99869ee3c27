"""The page of `evaluate latents`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.previews import mosaic
from ..pipeline.latents import read_latent
from ..zoo.record import Record
from ..zoo.runs import read_run
from .correlations import correlation_figure
from .page import figure, heading, paragraph, picture, side_by_side, table, write_page
from .tables import audit_rows, number

PAIRS = 4
CHANNELS = 3
SLICES = 5
COLUMNS = ("id", "nearest training exam", "correlation", "mirrored", "suspected copy")


def write_latent_report(path: Path, document: Mapping[str, Any]) -> None:
    """Writes the page: correlations beside those of independent exams, nearest pairs, every exam, the JSON.

    Args:
        path: The HTML file.
        document: The result of `evaluate_latents`; the latents of the nearest pairs are read again.

    Raises:
        InputError: The latents cannot be read any more.
        OSError: The file cannot be written.
    """
    sets, flagged = document["sets"], document["flagged"]
    parts = [
        paragraph(
            f"{sets['synthetic']['exams']} sampled latents ({sets['synthetic']['source']}) against "
            f"{sets['real']['exams']} training exams ({sets['real']['source']}), seed {document['seed']}."
        ),
        paragraph(f"Suspected copies of training exams: {', '.join(flagged)}." if flagged else "No suspected copies."),
        heading("Figures"),
        table(("figure", "n", "value", "low", "high", "independent"), audit_rows(document)),
        heading("Memorisation"),
        side_by_side(correlation_figure(document["memorisation"]), *_pairs(document)),
        heading("Exams"),
        table(COLUMNS, exam_rows(document)),
    ]
    write_page(path, "Sampled latents beside training exams", parts, document)


def exam_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """One row per sampled exam, most similar first; the partner is known of the nearest pairs. See COLUMNS."""
    audit = document["memorisation"]
    partners = {pair["id"]: pair for pair in audit["nearest"]}
    found = sorted(zip(audit["correlations"]["synthetic"], document["ids"], strict=True), key=lambda each: -each[0])
    rows: list[tuple[object, ...]] = []
    for correlation, identifier in found:
        pair = partners.get(identifier, {"training_id": None, "mirrored_axes": []})
        turned, copy = ("yes" if said else "" for said in (pair["mirrored_axes"], identifier in document["flagged"]))
        rows.append((identifier, pair["training_id"], number(correlation), turned, copy))
    return rows


def _pairs(document: Mapping[str, Any]) -> list[str]:
    """The nearest pairs, as the first channels of their latents: nothing was decoded."""
    shape = tuple(document["latent_shape"])
    records = {label: _records(document, label) for label in ("synthetic", "real")}
    figures = []
    for pair in document["memorisation"]["nearest"][:PAIRS]:
        synthetic = read_latent(records["synthetic"][pair["id"]], shape).numpy()
        real = read_latent(records["real"][pair["training_id"]], shape).numpy()
        mirrored = np.flip(real, pair["mirrored_axes"]) if pair["mirrored_axes"] else real
        rows = {}
        for channel in range(min(CHANNELS, shape[0])):
            rows[f"synth. {channel + 1}"] = _unit(synthetic[channel])
            rows[f"real {channel + 1}"] = _unit(mirrored[channel])
        turned = ", mirrored" if pair["mirrored_axes"] else ""
        caption = f"{pair['id']} beside {pair['training_id']}{turned}: correlation {number(pair['correlation'])}"
        figures.append(figure(picture(mosaic(rows, SLICES), "nearest pair"), caption))
    return figures


def _records(document: Mapping[str, Any], label: str) -> dict[str, Record]:
    folder = Path(document["sets"][label]["source"])
    return {record.id: record for record in read_run(folder) if record.kind == "latent"}


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = (float(each) for each in np.percentile(values, [1.0, 99.0]))
    return np.asarray((values - low) / max(high - low, 1e-9), np.float32).clip(0.0, 1.0)

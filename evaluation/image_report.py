"""The page of `evaluate images`."""

from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.previews import mosaic
from .charts import Interval, interval_chart, line_chart
from .correlations import correlation_figure
from .image_features import BINS
from .images import ImageEvaluation
from .page import figure, heading, paragraph, picture, side_by_side, table, write_page
from .tables import image_rows, number

SHOWN = 3
PAIRS = 3
SLICES = 5
COLUMNS = ("extractor", "view", "figure", "n", "d", "value", "low", "high", "floor")


def write_image_report(path: Path, evaluation: ImageEvaluation) -> None:
    """Writes the page: examples, intensities, distances with floors, the memorisation audit, the JSON.

    Args:
        path: The HTML file.
        evaluation: What `evaluate_images` returned.

    Raises:
        OSError: The file cannot be written.
    """
    document = evaluation.document
    sets = document["sets"]
    parts = [
        paragraph(
            f"{sets['synthetic']['exams']} synthetic exams ({sets['synthetic']['source']}) against "
            f"{sets['real']['exams']} real ones ({sets['real']['source']}); distances over {document['n']} of each, "
            f"seed {document['seed']}."
        ),
        paragraph(
            "A floor is what real exams reach against other real exams at the same number. Values of different numbers "
            "of exams, or of different extractors, do not compare.",
            dim=True,
        ),
        _verdict(document),
    ]
    for place, name in enumerate(document["sequences"]):
        parts.extend(_sequence(evaluation, name, place))
    write_page(path, "Synthetic images beside real ones", parts, document)


def _verdict(document: dict[str, Any]) -> str:
    flagged = document["flagged"]
    words = f"Suspected copies of training exams: {', '.join(flagged)}." if flagged else "No suspected copies."
    return paragraph(words)


def _sequence(evaluation: ImageEvaluation, name: str, place: int) -> list[str]:
    document = evaluation.document
    rows = [row[1:] for row in image_rows(document) if row[0] == name]
    return [
        heading(name),
        side_by_side(*(_examples(evaluation, label, place) for label in ("real", "synthetic"))),
        side_by_side(_intensities(evaluation, name), *_distances(document["sequences"][name]["fidelity"])),
        heading("Figures", 3),
        table(COLUMNS, rows),
        *_nearest(document["sequences"][name]["fidelity"]),
        heading("Memorisation", 3),
        *_memorisation(evaluation, name, place),
    ]


def _examples(evaluation: ImageEvaluation, label: str, place: int) -> str:
    kept = sorted(evaluation.summaries[label].kept.items())[:SHOWN]
    rows = {str(i + 1): array[place].astype(np.float32) for i, (_, array) in enumerate(kept)}
    ids = [evaluation.sets[label].exams[index].id for index, _ in kept]
    image = mosaic(rows, SLICES, spacing_mm=evaluation.sets[label].spec.spacing_mm, label=label)
    return figure(picture(image, f"{label} exams"), ", ".join(ids))


def _intensities(evaluation: ImageEvaluation, name: str) -> str:
    lines = {}
    for label in ("real", "synthetic"):
        counts = evaluation.summaries[label].histograms[name]
        shares = counts / counts.sum() * BINS
        # The darkest part is air and padding, which would flatten the rest of the curve.
        lines[label] = [((i + 0.5) / BINS, float(shares[i])) for i in range(1, BINS)]
    chart = line_chart(lines, x_label="intensity after mapping to 0..1", y_label="density", x_range=(0.0, 1.0))
    return figure(chart, "Voxel intensities, all exams; the darkest 1/64 is left out.")


def _distances(fidelity: dict[str, Any]) -> list[str]:
    charts = []
    for extractor, views in fidelity.items():
        rows = [
            Interval(view, kid["value"], kid["interval"][0], kid["interval"][1], kid["floor"])
            for view, kid in _kids(views)
        ]
        if rows:
            caption = "Bars: 95 % of 100 subsets of half the exams. Rings: the floor."
            charts.append(figure(interval_chart(rows, x_label=f"KID, {extractor}"), caption))
    return charts


def _kids(views: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(view, figures["kid"]) for view, figures in views.items()]


def _nearest(fidelity: dict[str, Any]) -> list[str]:
    """The synthetic exams that lie nearest to a real one in feature space."""
    parts = []
    for extractor, views in fidelity.items():
        for view in views.values():
            if "nearest_real" in view:
                near = view["nearest_real"]
                rows = [(pair["id"], pair["real_id"], number(pair["distance"])) for pair in near["pairs"][:PAIRS]]
                title = f"Nearest in the features of {extractor}; median distance {number(near['synthetic'])}"
                parts.append(heading(f"{title}, among real exams {number(near['real']) or '-'}", 3))
                parts.append(table(("synthetic", "real", "distance"), rows))
    return parts


def _memorisation(evaluation: ImageEvaluation, name: str, place: int) -> list[str]:
    result = evaluation.document["sequences"][name]["memorisation"]
    return [side_by_side(correlation_figure(result), *_pairs(evaluation, result, place))]


def _pairs(evaluation: ImageEvaluation, result: dict[str, Any], place: int) -> list[str]:
    places = {
        label: {exam.id: i for i, exam in enumerate(evaluation.sets[label].exams)} for label in ("real", "synthetic")
    }
    figures = []
    for pair in result["nearest"][:PAIRS]:
        real = evaluation.sets["real"].load(places["real"][pair["training_id"]])[place]
        synthetic = evaluation.sets["synthetic"].load(places["synthetic"][pair["id"]])[place]
        mirrored = np.flip(real, pair["mirrored_axes"]) if pair["mirrored_axes"] else real
        rows = {"synth.": synthetic, "real": mirrored}
        image = mosaic(rows, SLICES - 1, spacing_mm=evaluation.sets["real"].spec.spacing_mm)
        turned = ", mirrored" if pair["mirrored_axes"] else ""
        caption = f"{pair['id']} beside {pair['training_id']}{turned}: correlation {number(pair['correlation'])}"
        figures.append(figure(picture(image, "nearest pair"), caption))
    return figures

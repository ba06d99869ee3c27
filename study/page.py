"""The page of a study: examples, curves, distributions, tables, nearest pairs, the JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.page import figure, heading, paragraph, picture, side_by_side, table, write_page
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.spec import ImageSpec
from ..zoo.errors import ZooError
from .definition import Study
from .partitions import fraction_name
from .results import Results
from .running import PREDICTIONS
from .sources import FoundExams, find_study_exams
from .tables import DIFFERENCES, SUMMARY, difference_rows, summary_rows

SHOWN = 3
SLICES = 5
PAIRS = 3
BINS = 20
# An image's darkest and brightest voxels, as shown.
PERCENTILES = (1.0, 99.5)


def write_study_page(
    path: Path, results: Results, out: Path, figures: Sequence[Path], document: Mapping[str, Any]
) -> None:
    """Writes the page of a study's results.

    Args:
        path: The HTML file.
        results: Of the study.
        out: Its folder. Where its exams are not at hand, the page says so and shows the rest.
        figures: The PNG files of the curves.
        document: The results as JSON; the page's has the nearest pairs as well.

    Raises:
        OSError: The file cannot be written.
    """
    study = results.study
    parts = [
        paragraph(
            f"{len(results.figures)} of {results.planned} runs; {results.exams} test exams, {results.positives} "
            f"positive; {study.trials} trials."
        ),
        paragraph(
            "low and high: 95 % over trainings and test patients; patients_low and patients_high: over test patients "
            f"alone ({study.bootstrap} resamples). sd, min and max: over the trials, for a difference over each "
            "trial's own. p goes with low and high; p_holm is corrected over the shares of one comparison.",
            dim=True,
        ),
        heading("Curves"),
        *map(_drawn, figures),
        heading("Probabilities"),
        *_probabilities(results, out),
    ]
    nearest: dict[str, Any] = {}
    parts += _exams(study, out, nearest)
    parts += [
        heading("Points"), table(SUMMARY, summary_rows(results)),
        heading("Pretraining"), table(DIFFERENCES, difference_rows(results.pretraining)),
        heading("Sequences"), table(DIFFERENCES, difference_rows(results.sequences)),
    ]  # fmt: skip
    write_page(path, study.title, parts, {**document, "nearest": nearest})


def _drawn(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return figure(picture(np.asarray(image.convert("RGB")), path.stem), path.stem)


def _exams(study: Study, out: Path, nearest: dict[str, Any]) -> list[str]:
    """Examples and nearest pairs, or why there are none; `nearest` takes the audits."""
    try:
        exams = find_study_exams(study, out)
        examples, pairs = _examples(study, exams), _nearest(study, exams, out, nearest)
    except (InputError, ZooError, OSError) as error:
        nearest["problem"] = str(error)
        return [
            heading("Exams"),
            paragraph(f"Neither exams nor nearest pairs are shown, since some cannot be read: {error}"),
        ]
    return [heading("Exams"), *examples, heading("Nearest pairs"), *pairs]


def _probabilities(results: Results, out: Path) -> list[str]:
    """For each pretraining its smallest and its largest share, of all trials together."""
    from ..evaluation.charts import line_chart
    from ..evaluation.prediction_sets import read_predictions

    parts, edges = [], np.linspace(0.0, 1.0, BINS + 1)
    for sequences in results.study.sequences:
        charts = []
        for pretraining in results.study.pretraining:
            own = [run for run in results.figures if (run.sequences, run.pretraining) == (sequences, pretraining)]
            shares = sorted({run.fraction for run in own})
            for share in sorted({*shares[:1], *shares[-1:]}):
                runs = [run for run in own if run.fraction == share]
                tables = [read_predictions(run.folder(out) / PREDICTIONS) for run in runs]
                values = np.concatenate([entry.probabilities for entry in tables])
                labels = np.concatenate([entry.labels for entry in tables])
                lines = {}
                for name, label in (("positive exams", 1), ("negative exams", 0)):
                    counts = np.histogram(values[labels == label], edges)[0] / (labels == label).sum()
                    lines[name] = [((edges[i] + edges[i + 1]) / 2, float(each)) for i, each in enumerate(counts)]
                chart = line_chart(lines, x_label="probability of class 1", y_label="share", x_range=(0.0, 1.0))
                words = f"{sequences}, pretraining {pretraining}, {fraction_name(share)} %: {len(runs)} trials together"
                charts.append(figure(chart, words))
        parts += [heading(sequences, 3), side_by_side(*charts)]
    return parts


def _shown(exam: Exam, spec: ImageSpec, label: str | None = None) -> str:
    """An exam as its classifier sees it, each sequence between its own dark and bright."""
    from ..imaging.previews import mosaic
    from ..imaging.standardisation import standardise_exam

    rows = {}
    for name, array in zip(spec.channel_names, standardise_exam(exam, spec), strict=True):
        low, high = np.percentile(array, PERCENTILES)
        rows[name] = np.clip((array - low) / max(high - low, 1e-6), 0.0, 1.0)
    image = mosaic(rows, SLICES, spacing_mm=spec.spacing_mm, label=label)
    return figure(picture(image, exam.id), f"{exam.id}, class {exam.label}")


def _spec(study: Study, sequences: str) -> ImageSpec:
    from ..training.classifier import select_channels
    from ..zoo.registry import find_card

    return select_channels(find_card(study.classifier), study.sequences[sequences]).image


def _examples(study: Study, exams: FoundExams) -> list[str]:
    """Exams of the set with most sequences: institution 1 beside what was made of its reports, then institution 2."""
    sequences = max(study.sequences, key=lambda name: len(study.sequences[name]))
    spec, parts = (
        _spec(study, sequences),
        [paragraph("As the classifier sees them; sequences below each other.", dim=True)],
    )
    made = {exam.id.removeprefix("synthetic-"): exam for exam in exams.synthetic.get(sequences, ())}
    paired = [exam for exam in exams.first if exam.id in made][:SHOWN]
    for exam in paired:
        pair = side_by_side(_shown(exam, spec), _shown(made[exam.id], spec, "synthetic"))
        parts += [heading(f"Institution 1: {exam.id} and its report's sample", 3), paragraph(exam.text or ""), pair]
    if not paired:
        parts += [heading("Institution 1", 3), side_by_side(*(_shown(exam, spec) for exam in exams.first[:SHOWN]))]
        if made:
            synthetic = side_by_side(*(_shown(exam, spec, "synthetic") for exam in list(made.values())[:SHOWN]))
            parts += [heading("Synthetic", 3), synthetic]
    parts += [heading("Institution 2", 3), side_by_side(*(_shown(exam, spec) for exam in exams.second[:SHOWN]))]
    return parts


def _nearest(study: Study, exams: FoundExams, out: Path, found: dict[str, Any]) -> list[str]:
    """What most resembles a training exam in each sequence; `found` takes the audits."""
    from ..evaluation.correlations import correlation_figure
    from .likeness import audit_likeness

    if not exams.synthetic:
        return [paragraph("The study has no synthetic exams.")]
    parts = [
        paragraph(
            "Synthetic exams against institution 1's training exams of this study, as the classifier sees them on a "
            "coarse grid. A generator that learned from other exams may have copied those, which this does not see.",
            dim=True,
        )
    ]
    for sequences, synthetic in exams.synthetic.items():
        spec = _spec(study, sequences)
        made, real = ({exam.id: exam for exam in each} for each in (synthetic, exams.first))
        for name, audit in audit_likeness(synthetic, exams.first, spec, out / "cache", study.seed).items():
            found.setdefault(sequences, {})[name] = audit
            parts.append(heading(f"{sequences}: {name}", 3))
            if "problem" in audit:
                parts.append(paragraph(audit["problem"]))
                continue
            flagged = ", ".join(audit["flagged"]) or "none"
            parts += [
                paragraph(f"{audit['audited']} of {audit['of']} synthetic exams. Suspected copies: {flagged}."),
                correlation_figure(audit),
            ]
            for pair in audit["nearest"][:PAIRS]:
                turned = ", mirrored" if pair["mirrored_axes"] else ""
                words = f"Correlation {pair['correlation']:.3f}{turned}"
                both = (_shown(made[pair["id"]], spec, "synthetic"), _shown(real[pair["training_id"]], spec))
                parts += [paragraph(words), side_by_side(*both)]
    return parts

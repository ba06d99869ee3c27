"""The report of a study: tables, figures, result.json and, where asked for, one page of HTML."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json
from .definition import Study
from .figures import check_matplotlib, write_figures
from .results import Results, collect_results
from .running import claim_folder
from .tables import DIFFERENCES, SUMMARY, difference_rows, summary_rows, write_tables


def report_study(study: Study, out: Path, page: Path | None = None) -> tuple[Results, list[Path]]:
    """Writes what a study folder shows so far.

    Args:
        study: The study.
        out: Its folder; `tables/`, `figures/` and `result.json` are written there.
        page: A self-contained HTML page, or None.

    Returns:
        The results and the files written.

    Raises:
        InputError: The folder is of another study or has no finished run, or matplotlib is missing.
    """
    check_matplotlib()
    claim_folder(study, out)
    results = collect_results(study, out)
    tables = write_tables(out / "tables", results)
    figures = write_figures(out / "figures", results)
    document = describe_results(results)
    write_json(out / "result.json", document)
    files = [*tables.values(), *figures, out / "result.json"]
    if page is not None:
        _write_page(page, results, figures, document)
        files.append(page)
    return results, files


def describe_results(results: Results) -> dict[str, Any]:
    """The results as JSON: what was asked, every run, every point, every difference."""
    return {
        "schema": "ccella.study_result/1",
        "study": dict(results.study.document),
        "runs_planned": results.planned,
        "runs": [{**asdict(run), **found} for run, found in results.figures.items()],
        "test": {"exams": results.exams, "positives": results.positives},
        "bootstrap": {"resamples": results.study.bootstrap, "seed": results.study.seed, "unit": "patient"},
        "summary": [dict(zip(SUMMARY, row, strict=True)) for row in summary_rows(results)],
        "pretraining": [asdict(each) for each in results.pretraining],
        "sequences": [asdict(each) for each in results.sequences],
    }


def _write_page(path: Path, results: Results, figures: list[Path], document: dict[str, Any]) -> None:
    import numpy as np
    from PIL import Image

    from ..pipeline.report_page import figure, heading, paragraph, picture, table, write_page

    parts = [
        paragraph(
            f"{len(results.figures)} of {results.planned} runs; {results.exams} test exams, {results.positives} "
            f"positive. Intervals: 95 %, {results.study.bootstrap} resamples of the test patients; SD over trials. "
            "p values are corrected by Holm over the shares of one comparison."
        ),
        heading("Curves"),
    ]
    for each in figures:
        with Image.open(each) as image:
            parts.append(figure(picture(np.asarray(image.convert("RGB")), each.stem), each.stem))
    parts += [
        heading("Points"), table(SUMMARY, summary_rows(results)),
        heading("Pretraining"), table(DIFFERENCES, difference_rows(results.pretraining)),
        heading("Sequences"), table(DIFFERENCES, difference_rows(results.sequences)),
    ]  # fmt: skip
    write_page(path, results.study.title, parts, document)

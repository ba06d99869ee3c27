"""The report of a study: tables, figures, result.json and, where asked for, one page of HTML."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json
from ..imaging.errors import InputError
from .definition import Study
from .figures import check_matplotlib, write_figures
from .inputs import STUDY_FILE
from .page import write_study_page
from .results import Results, collect_results
from .running import claim_folder
from .tables import SUMMARY, summary_rows, write_tables

INTERVALS = {
    "low, high": "95 % over trainings and test patients (Obuchowski and Rockette 1995, Hillis 2007)",
    "p": "two-sided, by the same t statistic; p_holm: corrected by Holm over the shares of one comparison",
    "patients_low, patients_high": "95 % over test patients alone, by the bootstrap",
}


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
    if not (out / STUDY_FILE).is_file():
        raise InputError(f"{out} is not the folder of a study.", "Run `ccella study run` first, or name its folder.")
    claim_folder(study, out)
    results = collect_results(study, out)
    tables = write_tables(out / "tables", results)
    figures = write_figures(out / "figures", results)
    document = describe_results(results)
    write_json(out / "result.json", document)
    files = [*tables.values(), *figures, out / "result.json"]
    if page is not None:
        write_study_page(page, results, out, figures, document)
        files.append(page)
    return results, files


def describe_results(results: Results) -> dict[str, Any]:
    """The results as JSON: what was asked, every run, every point, every difference."""
    return {
        "schema": "ccella.study_result/2",
        "study": dict(results.study.document),
        "runs_planned": results.planned,
        "runs": [{**asdict(run), **found} for run, found in results.figures.items()],
        "test": {"exams": results.exams, "positives": results.positives},
        "bootstrap": {"resamples": results.study.bootstrap, "seed": results.study.seed, "unit": "patient"},
        "intervals": INTERVALS,
        "summary": [dict(zip(SUMMARY, row, strict=True)) for row in summary_rows(results)],
        "pretraining": [asdict(each) for each in results.pretraining],
        "sequences": [asdict(each) for each in results.sequences],
    }

"""Runs the phantom study, one process per core, and keeps its tables and figures under docs/.

Resumes what is there; where all runs are done it tabulates them again. The core-hours are those of the trainings, as
each run recorded them; phantoms and samples come on top.

    python bench/study.py examples/study-phantom-short.toml -o runs/study-phantom-short --shards 2
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from machine import report

from ccella.study.definition import read_study
from ccella.study.partitions import fraction_name
from ccella.study.plan import plan_runs
from ccella.study.report import describe_results, report_study
from ccella.study.results import FIGURES, Difference, Results
from ccella.study.running import PREDICTIONS
from ccella.study.tables import p_text
from ccella.study.uncertainty import Estimate, Interval

DOCS = Path(__file__).parents[1] / "docs" / "study"
PAGE = "README.md"
START, END = "<!-- results -->\n", "<!-- end of results -->"
KEPT = ("tables/*.csv", "figures/*.png", "partitions.csv")


def run_shards(study: Path, out: Path, shards: int) -> None:
    """Starts the shards, each on a core and with one thread, and waits; ends the benchmark when one fails."""
    cores = sorted(os.sched_getaffinity(0))
    running = []
    for number in range(shards):
        command = [sys.executable, "-m", "ccella.cli.main", "study", "run", str(study), "-o", str(out)]
        words = ["--shard", f"{number + 1}/{shards}"] if shards > 1 else []
        process = subprocess.Popen(
            [*command, *words], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
        running.append(process)
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"A shard ended with the exit codes {codes}; the same command goes on.")


def figure_rows(results: Results) -> list[tuple[str, object]]:
    """The area under the ROC curve of every point: mean, SD over trials, interval over trainings and patients."""
    rows: list[tuple[str, object]] = [("test exams", results.exams), ("positives", results.positives)]
    for (point, figure), found in results.estimates.items():
        if figure == "auc":
            label = f"AUC, {point[0]}, pretraining {point[1]}, {fraction_name(point[2])} %"
            rows.append((label, f"{_spread(found, '')}  {_bounds(found.interval, '')}"))
    return rows


def describe_points(results: Results) -> list[str]:
    """Both figures of every point as a Markdown table."""
    lines = [
        "| sequences | pretraining | % of institution 2 | average precision | AUC | trials' AUC | patients alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in results.points():
        cells = [point[0], point[1], fraction_name(point[2])]
        for figure in FIGURES:
            found = results.estimates[point, figure]
            cells.append(f"{_spread(found, '')} {_bounds(found.interval, '')}")
        area = results.estimates[point, "auc"]
        cells += [", ".join(f"{value:.3f}" for value in area.trials), _bounds(area.patients, "")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def describe_differences(differences: Sequence[Difference]) -> list[str]:
    """The differences of the AUC as a Markdown table; bold where the interval leaves zero out."""
    lines = [
        "| difference | % of institution 2 | AUC | p | p, corrected | trials | patients alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in differences:
        if each.figure != "auc":
            continue
        one, other, found = each.minuend, each.subtrahend, each.estimate
        # What both have in common is said once.
        names = (f"{one[0]}: {one[1]} - {other[1]}", f"{one[1]}: {one[0]} - {other[0]}")[one[0] != other[0]]
        value = f"{_spread(found, '+')} {_bounds(found.interval, '+')}"
        clear = found.interval is not None and (found.interval[0] > 0 or found.interval[1] < 0)
        cells = [
            names, fraction_name(one[2]), f"**{value}**" if clear else value, p_text(found.p_value),
            p_text(each.p_holm), ", ".join(f"{value:+.3f}" for value in found.trials), _bounds(found.patients, "+"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _spread(found: Estimate, sign: str) -> str:
    """Mean and standard deviation over the trials."""
    return f"{found.value:{sign}.3f}" + ("" if found.sd is None else f" ± {found.sd:.3f}")


def _bounds(interval: Interval | None, sign: str) -> str:
    return "" if interval is None else f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def update_page(path: Path, results: Results) -> None:
    """Puts the tables between the markers of a page; without the page there is nothing to update."""
    if not path.is_file():
        return
    before, rest = path.read_text(encoding="utf-8").split(START)
    lines = [
        f"{len(results.figures)} runs; {results.exams} test exams of institution 2, {results.positives} of them "
        f"positive; {results.study.trials} trials. Mean ± SD over the trials, and in brackets the 95 % interval over "
        "trainings and test patients; at the right each trial's value, and the 95 % interval over test patients alone "
        f"({results.study.bootstrap} resamples), which takes these trained classifiers as given.",
        "",
        *describe_points(results),
        "",
        "Differences, trial by trial on the same test patients; bold where the interval over trainings and patients "
        "leaves zero out. p belongs to that interval; corrected by Holm over the parts of one comparison:",
        "",
        *describe_differences([*results.pretraining, *results.sequences]),
        "",
    ]
    path.write_text(before + START + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Reads the arguments, runs, and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    study = read_study(options.study)
    done = all((run.folder(options.out) / PREDICTIONS).is_file() for run in plan_runs(study))
    began = time.monotonic()
    if not done:
        run_shards(options.study, options.out, options.shards)
    wall_min = (time.monotonic() - began) / 60
    results, _ = report_study(study, options.out, options.out / "report.html")
    cards = [run.folder(options.out) / "card.toml" for run in plan_runs(study)]
    documents = [tomllib.loads(path.read_text(encoding="utf-8")) for path in cards]
    hours = sum(document["provenance"]["classifier"]["seconds"] for document in documents) / 3600
    for pattern in KEPT:
        for file in sorted(options.out.glob(pattern)):
            options.docs.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, options.docs / file.name)
    kept = options.docs / "study.toml"
    if not (kept.is_file() and options.study.samefile(kept)):
        shutil.copyfile(options.study, kept)
    update_page(options.docs / PAGE, results)
    rows: list[tuple[str, object]] = [
        ("runs", len(results.figures)),
        ("trainings, core-hours", f"{hours:.2f}"),
    ]
    if not done:
        rows.append((f"this command, {options.shards} shards, minutes", f"{wall_min:.1f}"))
    report("study", [*rows, *figure_rows(results)], describe_results(results))


if __name__ == "__main__":
    main()

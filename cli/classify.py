"""`ccella classify`: exams in, probabilities out."""

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..pipeline.seeds import Shard
from .notes import say
from .options import classifier_option, compute_options, run_options, stream_options
from .output import Output
from .progress import Progress
from .stages import ItemCount, announce_runtime, require_weights

if TYPE_CHECKING:
    from ..imaging.exams import Exam
    from ..pipeline.prediction_table import Prediction


@click.command()
@click.argument("exams", metavar="EXAMS")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="The predictions: id, patient_id, probability, label. A .json beside it says what made them.",
)
@classifier_option("none; train one with `ccella train classifier`")
@compute_options
@run_options
@stream_options
def command(
    exams: str,
    out: Path,
    model: str | None,
    device: str,
    runtime: str,
    precision: str,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give exams the probability of class 1 (clinically significant cancer).

    EXAMS is a folder, a .csv or .jsonl manifest, the output folder of `ccella sample`, or - for the records of another
    command's --json. A class that the exams state is kept as the label. --resume keeps the rows of images that have not
    changed; without --shard it joins what shards wrote to FILE-I-of-N.csv.
    """
    from ..imaging.exams import exams_from_records, find_exams
    from ..pipeline.classify import PART, PredictionFile, classify, prediction_entry, table_path
    from ..zoo.registry import find_card

    if model is None:
        raise click.UsageError("Name a classifier: --model runs/clf.")
    card = find_card(model)
    require_weights(card, PART)
    names = card.image.channel_names
    found: Iterable[Exam] = exams_from_records(sys.stdin, names) if exams == "-" else find_exams(exams, names)
    found = found if shard is None else shard.select(list(found))
    if dry_run:
        _print_plan(found, table_path(out, shard), as_json)
        return
    chosen = announce_runtime(card, runtime=runtime, device=device, precision=precision)
    file = PredictionFile(out, prediction_entry(card, chosen), resume=resume, overwrite=overwrite, shard=shard)
    progress = Progress("classifying", "exams")
    count = ItemCount(progress, len(found) if isinstance(found, Sized) else None)
    rows = classify(found, card, classifier=chosen.load(card, PART), runtime=chosen, file=file, on_item=count.finish)
    _print(rows, progress, file.path, as_json)
    say(f"Predictions: {file.path}")


def _print_plan(exams: "Iterable[Exam]", out: Path, as_json: bool) -> None:
    """What `--dry-run` shows of each exam."""
    with Output("id", "patient", "label", "file", as_json=as_json) as output:
        for exam in exams:
            if as_json:
                row = {"id": exam.id, "patient_id": exam.patient_id, "label": exam.label, "path": out.as_posix()}
                output.add_object(row)
            else:
                output.add_row(exam.id, exam.patient_id, exam.label, out)


def _print(rows: "Iterator[Prediction]", progress: Progress, out: Path, as_json: bool) -> None:
    # A bar and lines of results would overwrite each other on one terminal.
    shown = nullcontext() if as_json and sys.stdout.isatty() else progress
    with Output("id", "p(class 1)", "label", as_json=as_json) as output, shown:
        for row in rows:
            if as_json:
                output.add_object({"kind": "prediction", **vars(row), "path": out.as_posix()})
            else:
                output.add_row(row.id, f"{row.probability:.4f}", row.label)

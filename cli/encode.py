"""`ccella encode`: exams in, latents out."""

import sys
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..pipeline.seeds import Shard
from .notes import say
from .options import (
    compute_options,
    model_option,
    output_option,
    resolve_model,
    run_options,
    split_option,
    stream_options,
)
from .output import Output, print_records
from .progress import Progress
from .stages import ItemCount, announce_runtime, require_weights

if TYPE_CHECKING:
    from ..imaging.exams import Exam


@click.command()
@click.argument("exams", metavar="EXAMS")
@output_option("Folder for the latents; made where missing.")
@model_option
@compute_options
@split_option
@run_options
@stream_options
def command(
    exams: str,
    out: Path,
    model: str | None,
    device: str,
    runtime: str,
    precision: str,
    choice: str | None,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn exams into latents, the input of training.

    EXAMS is a folder (PI-CAI with its marksheet.csv, Prostate158, one folder per exam), a .csv or .jsonl manifest, or -
    for the records of another command's --json. Reports are embedded too, each once. The folder also gets
    data-report.json and, unless the exams come one by one from -, splits.csv, which training keeps to.
    """
    from ..imaging.errors import InputError
    from ..imaging.exams import find_exams
    from ..imaging.manifests import exams_from_records
    from ..pipeline.cohort import doubt_classes, keep_splits, plan_splits
    from ..pipeline.encode import encode
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..pipeline.run_settings import runtime_setting
    from ..zoo.loading import load_text_encoder

    card = resolve_model(model)
    names = card.image.channel_names
    problems: list[tuple[str, InputError]] = []
    cohort: list[Exam] | None = None
    if exams == "-":
        found: Iterable[Exam] = exams_from_records(sys.stdin, names)
    else:
        found = cohort = find_exams(exams, names, lambda item_id, error: problems.append((item_id, error)))
        for sentence in doubt_classes(cohort):
            say(sentence)
    splits = plan_splits(out, cohort, choice, resume=resume)
    if shard is not None:
        found = shard.select(list(found))
        problems = list(shard.select(problems))
    if dry_run:
        _print_plan(found, splits or {}, out, as_json=as_json)
        for item_id, problem in problems:
            say(f"{item_id} cannot be used: {problem}")
        return
    chosen = announce_runtime(card, runtime=runtime, device=device, precision=precision, graphs=("encoder",))
    settings = {"model": model_entry(card), "precision": chosen.precision, **runtime_setting(chosen)}
    require_weights(card, "autoencoder", "text_encoder")
    with RunFolder(
        out, command="encode", settings=settings, resume=resume, overwrite=overwrite, shard=shard, warn=say
    ) as run:
        keep_splits(run, cohort, splits, say)
        autoencoder = chosen.load(card, "autoencoder")
        text_encoder = load_text_encoder(card, device=str(chosen.device))
        progress = Progress("encoding", "exams")
        count = ItemCount(progress, len(found) if isinstance(found, Sized) else None)
        records = encode(
            found, card, autoencoder=autoencoder, text_encoder=text_encoder, run=run, runtime=chosen,
            on_item=count.finish, splits=splits, problems=problems,
        )  # fmt: skip
        print_records(records, progress, as_json=as_json)


def _print_plan(exams: "Iterable[Exam]", splits: Mapping[str, str], out: Path, *, as_json: bool) -> None:
    """What `--dry-run` shows of each exam."""
    with Output("id", "class", "report", "split", "folder", as_json=as_json) as output:
        for exam in exams:
            split, place = splits.get(exam.patient_id), out / exam.id
            if as_json:
                output.add_object({"id": exam.id, "class": exam.label, "split": split, "path": place.as_posix()})
            else:
                output.add_row(exam.id, exam.label, "yes" if exam.text else "no", split, place)

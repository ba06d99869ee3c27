"""`ccella encode`: exams in, latents out."""

import sys
from collections.abc import Iterable, Sized
from pathlib import Path

import click

from ..pipeline.seeds import Shard
from .notes import say
from .options import compute_options, model_option, output_option, resolve_model, run_options, stream_options
from .output import Output, print_records
from .progress import Progress
from .stages import ItemCount, announce_runtime, require_weights


@click.command()
@click.argument("exams", metavar="EXAMS")
@output_option("Folder for the latents; made where missing.")
@model_option
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
    """Turn exams into latents, the input of training.

    EXAMS is a folder (PI-CAI with its marksheet.csv, Prostate158, one folder per exam), a .csv or .jsonl manifest, or -
    for the records of another command's --json. Reports are embedded too, each once.
    """
    from ..imaging.exams import Exam, find_exams
    from ..imaging.manifests import exams_from_records
    from ..pipeline.encode import encode
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..zoo.loading import load_text_encoder

    card = resolve_model(model)
    names = card.image.channel_names
    found: Iterable[Exam] = exams_from_records(sys.stdin, names) if exams == "-" else find_exams(exams, names)
    if shard is not None:
        found = shard.select(list(found))
    if dry_run:
        with Output("id", "class", "report", "folder", as_json=as_json) as output:
            for exam in found:
                if as_json:
                    output.add_object({"id": exam.id, "class": exam.label, "path": (out / exam.id).as_posix()})
                else:
                    output.add_row(exam.id, exam.label, "yes" if exam.text else "no", out / exam.id)
        return
    chosen = announce_runtime(card, runtime=runtime, device=device, precision=precision, graphs=("encoder",))
    settings = {"model": model_entry(card), "precision": chosen.precision}
    require_weights(card, "autoencoder", "text_encoder")
    with RunFolder(
        out, command="encode", settings=settings, resume=resume, overwrite=overwrite, shard=shard, warn=say
    ) as run:
        autoencoder = chosen.load(card, "autoencoder")
        text_encoder = load_text_encoder(card, device=str(chosen.device))
        progress = Progress("encoding", "exams")
        count = ItemCount(progress, len(found) if isinstance(found, Sized) else None)
        records = encode(
            found, card, autoencoder=autoencoder, text_encoder=text_encoder, run=run, runtime=chosen,
            on_item=count.finish,
        )  # fmt: skip
        print_records(records, progress, as_json=as_json)

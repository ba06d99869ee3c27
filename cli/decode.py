"""`ccella decode`: latents in, volumes out."""

from collections.abc import Iterable, Sized
from pathlib import Path

import click

from ..pipeline.seeds import Shard
from ..zoo.record import Record
from .notes import say
from .options import (
    compute_options,
    memory_option,
    model_option,
    output_option,
    resolve_model,
    run_options,
    stream_options,
)
from .output import Output, print_records
from .progress import Progress
from .stages import ItemCount, announce_runtime, read_stdin_records, require_weights, say_preview


@click.command()
@click.argument("latents", metavar="LATENTS")
@output_option("Folder for the volumes; made where missing.")
@model_option
@memory_option
@compute_options
@run_options
@stream_options
def command(
    latents: str,
    out: Path,
    model: str | None,
    memory_bytes: int | None,
    device: str,
    runtime: str,
    precision: str,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn latents into volumes.

    LATENTS is the output folder of `ccella encode` or `ccella sample --latents`, or - for the records of their --json.
    """
    from ..pipeline.decode import decode
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..pipeline.run_settings import runtime_setting
    from ..zoo.runs import read_run

    card = resolve_model(model)
    records: Iterable[Record]
    if latents == "-":
        records = read_stdin_records("Pipe in what `ccella sample --latents --json` or `ccella encode --json` prints.")
    else:
        records = list(read_run(Path(latents)))
    if shard is not None:
        records = shard.select(list(records))
    if dry_run:
        with Output("id", "latent", "folder", as_json=as_json) as output:
            for record in records:
                if as_json:
                    output.add_object(
                        {"id": record.id, "latent": str(record.path), "path": (out / record.id).as_posix()}
                    )
                else:
                    output.add_row(record.id, record.path, out / record.id)
        return
    chosen = announce_runtime(card, runtime=runtime, device=device, precision=precision, graphs=("decoder",))
    settings = {"model": model_entry(card), "precision": chosen.precision, **runtime_setting(chosen)}
    require_weights(card, "autoencoder")
    with RunFolder(
        out, command="decode", settings=settings, resume=resume, overwrite=overwrite, shard=shard, warn=say
    ) as run:
        autoencoder = chosen.load(card, "autoencoder")
        progress = Progress("decoding", "latents")
        count = ItemCount(progress, len(records) if isinstance(records, Sized) else None)
        made = decode(
            records, card, autoencoder=autoencoder, run=run, runtime=chosen, memory_bytes=memory_bytes,
            on_item=count.finish,
        )  # fmt: skip
        print_records(made, progress, as_json=as_json)
    say_preview(run)

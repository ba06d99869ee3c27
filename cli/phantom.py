"""`ccella phantom`: exams with known truth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..pipeline.seeds import Shard
from ..zoo.record import Record
from .notes import say
from .options import NumbersType, output_option, run_options, seed_option, stream_options
from .output import Output, print_records
from .progress import Progress


@click.command()
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), required=True, metavar="N", help="How many exams.")
@output_option("Folder of the collection; made where missing.")
@seed_option("Seed of the collection: exam 17 of a seed is the same exam whatever the count.")
@click.option(
    "--start", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Index of the first."
)
@click.option(
    "--institution", type=click.Choice(("1", "2")), default="1", show_default=True, help="Whose scanner and patients."
)
@click.option(
    "--shape", type=NumbersType("X", "Y", "Z", kind=int), metavar="X,Y,Z", help="Voxels.  [default: the institution's]"
)
@click.option(
    "--spacing", "spacing_mm", type=NumbersType("X", "Y", "Z"), metavar="X,Y,Z",
    help="Voxel spacing in mm.  [default: the institution's]",
)  # fmt: skip
@click.option(
    "--prevalence", type=click.FloatRange(0, 1), metavar="P", help="Share of exams with a lesion.  [default: 0.28]"
)
@click.option(
    "--even-places", is_flag=True, help="Lesions in all sectors alike, not as often as cancer is found there."
)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, metavar="N", help="Processes.")
@run_options
@stream_options
def command(
    count: int,
    out: Path,
    seed: int,
    start: int,
    institution: str,
    shape: tuple[int, ...] | None,
    spacing_mm: tuple[float, ...] | None,
    prevalence: float | None,
    even_places: bool,
    workers: int,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write prostate MRI phantoms: images, reports, masks and findings that agree by construction.

    The layout is that of PI-CAI. Exams that are there already, whole, are kept, with or without --resume: a collection
    can grow or be completed, by the same --shape, --spacing, --prevalence and --even-places. --overwrite makes the
    exams of this seed and institution anew.
    """
    from ..imaging.phantom.collection import plan_collection
    from ..pipeline.phantoms import make_phantoms

    indices: Sequence[int] = range(start, start + count)
    if shard is not None:
        indices = shard.select(indices)
    if dry_run:
        _print_plan(indices, out, seed, int(institution), as_json)
        return
    progress = Progress("phantoms", "exams")
    collection = plan_collection(
        out, seed, institution=int(institution), shape=shape, spacing_mm=spacing_mm, prevalence=prevalence,
        even_places=even_places, start=start,
    )  # fmt: skip
    exams = make_phantoms(
        collection, indices, workers=workers, shard=shard, resume=resume, overwrite=overwrite, warn=say
    )
    followed = progress.follow(exams, len(indices))
    print_records((record for exam in followed for record in _make_records(exam)), progress, as_json=as_json)


def _print_plan(indices: Sequence[int], out: Path, seed: int, institution: int, as_json: bool) -> None:
    from ..imaging.phantom.exam import exam_id

    say(f"Would write {len(indices)} phantoms of institution {institution} into {out}.")
    with Output("id", as_json=as_json) as output:
        for index in indices:
            name = exam_id(seed, index, institution)
            if as_json:
                output.add_object({"id": name})
            else:
                output.add_row(name)


def _make_records(exam: Mapping[str, Any]) -> Iterator[Record]:
    """One record per volume, as the other commands print and read them."""
    shared = {
        "channels": list(exam["files"]),
        "patient_id": exam["patient_id"],
        "prompt": exam["text"],
        "class": exam["class"],
        "spacing_mm": exam["spacing_mm"],
        "synthetic": True,
        "masks": exam["masks"],
        "report_path": exam["report_path"],
        "findings_path": exam["findings_path"],
    }
    for channel, path in exam["files"].items():
        yield Record(exam["id"], "volume", Path(path), {"channel": channel, **shared})

"""`ccella evaluate`: do the images look right, does the classifier get better, does the image show the report?"""

import sys
from pathlib import Path
from typing import Any

import click

from ..zoo.registry import DEFAULT_MODEL, find_card
from .config_file import config_option
from .notes import say
from .options import device_option, seed_option, stream_options
from .output import Output
from .progress import Progress

PATH = click.Path(path_type=Path)

report_option = click.option(
    "--report", metavar="FILE.html", type=PATH, help="Also write one self-contained page for a browser."
)


@click.group("evaluate")
def command() -> None:
    """Measure synthetic images, predictions, and whether images show their report."""


@command.command("images")
@click.option("--real", required=True, metavar="R", type=PATH, help="Real exams: those the model was trained on.")
@click.option("--synthetic", required=True, metavar="S", type=PATH, help="Synthetic exams.")
@click.option("--holdout", metavar="H", type=PATH, help="Real exams unknown to the model, as the audit's yardstick.")
@click.option("--sequences", metavar="A,B", help="Which sequences.  [default: t2w,hbv,adc]")
@click.option(
    "--features", metavar="A,B", default="pyramid", show_default=True,
    help="Feature extractors: pyramid, medicalnet-resnet50, radimagenet-resnet50-keras, radimagenet-resnet50-torch.",
)  # fmt: skip
@click.option("--grid", metavar="NAME", help="Bring all exams onto this model's grid.  [default: keep their own]")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="Exams of each set for distances; drawn by --seed."
)
@seed_option("Seed of every drawing.")
@report_option
@config_option
@device_option
@stream_options
def images(
    real: Path,
    synthetic: Path,
    holdout: Path | None,
    sequences: str | None,
    features: str,
    grid: str | None,
    count: int | None,
    seed: int,
    report: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare the synthetic exams S with the real exams R, per sequence.

    KID and FID of volumes and of slices in three planes, precision, recall, density, coverage, MS-SSIM diversity and a
    memorisation audit. Every figure that depends on the number of exams stands beside its floor: what real exams reach
    against real exams.
    """
    from ..evaluation.images import evaluate_images
    from ..evaluation.tables import image_rows
    from ..export.runtimes import choose_device
    from ..zoo.extractors import find_extractor, load_extractor

    cards = [find_extractor(name) for name in dict.fromkeys(features.split(","))]
    extractors = [load_extractor(card, device=str(choose_device(device))) for card in cards]
    progress = Progress("evaluating", "exams")
    with progress:
        evaluation = evaluate_images(
            real, synthetic, holdout=holdout, template=find_card(grid or DEFAULT_MODEL), own_grid=grid is None,
            extractors=extractors, sequences=sequences.split(",") if sequences else None, count=count, seed=seed,
            on_item=progress.update,
        )  # fmt: skip
    if report is not None:
        from ..evaluation.image_report import write_image_report

        write_image_report(report, evaluation)
        say(f"Report: {report}")
    columns = ("sequence", "extractor", "view", "figure", "n", "d", "value", "low", "high", "floor")
    _print(evaluation.document, columns, image_rows(evaluation.document), as_json)
    if evaluation.document["flagged"]:
        say(f"Suspected copies of training exams: {', '.join(evaluation.document['flagged'])}.")


@command.command("latents")
@click.option("--real", required=True, metavar="R", type=PATH, help="Encoded exams: those the model was trained on.")
@click.option("--synthetic", required=True, metavar="S", type=PATH, help="Sampled latents.")
@click.option("--holdout", metavar="H", type=PATH, help="Encoded exams unknown to the model, as the yardstick.")
@seed_option("Seed of the choice of independent exams where there is no holdout.")
@report_option
@config_option
@stream_options
def latents(real: Path, synthetic: Path, holdout: Path | None, seed: int, report: Path | None, as_json: bool) -> None:
    """Look for training exams among sampled latents, without decoding them.

    R and S are folders that `ccella encode` and `ccella sample --latents` wrote.
    """
    from ..evaluation.latents import evaluate_latents
    from ..evaluation.tables import audit_rows

    document = evaluate_latents(real, synthetic, holdout=holdout, seed=seed)
    if report is not None:
        from ..evaluation.latent_report import write_latent_report

        write_latent_report(report, document)
        say(f"Report: {report}")
    _print(document, ("figure", "n", "value", "low", "high", "independent"), audit_rows(document), as_json)
    if document["flagged"]:
        say(f"Suspected copies of training exams: {', '.join(document['flagged'])}.")


@command.command("predictions")
@click.argument("first", metavar="P.csv|-", type=PATH)
@click.argument("second", metavar="[Q.csv]", type=PATH, required=False)
@click.option("--labels", metavar="FILE", type=PATH, help="Labels by id, or a PI-CAI marksheet, where P has none.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, metavar="T",
    help="Probabilities from here on are called positive.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=100), default=2000, show_default=True, metavar="N", help="Bootstrap resamples."
)
@seed_option("Seed of the bootstrap.")
@report_option
@config_option
@stream_options
def predictions(
    first: Path,
    second: Path | None,
    labels: Path | None,
    threshold: float,
    repeats: int,
    seed: int,
    report: Path | None,
    as_json: bool,
) -> None:
    """Figures of the predictions P with 95 % intervals by patient, and DeLong's test against Q.

    A table has the columns id and probability, and where known label and patient_id. - takes the table that
    `ccella classify --json` speaks of on standard input.
    """
    from ..evaluation.predictions import evaluate_predictions
    from ..evaluation.tables import prediction_rows
    from ..pipeline.prediction_table import find_table

    if str(first) == "-":
        first = find_table(sys.stdin)
    document, tables = evaluate_predictions(
        first, second, labels=labels, threshold=threshold, repeats=repeats, seed=seed
    )
    unused = document.get("labelled_exams_without_prediction", 0)
    if unused:
        say(f"{unused} labelled exams have no prediction and are left out.")
    for note in document["notes"]:
        say(note)
    if report is not None:
        from ..evaluation.prediction_report import write_prediction_report

        write_prediction_report(report, document, tables)
        say(f"Report: {report}")
    _print(document, ("predictions", "figure", "value", "low", "high", "p"), prediction_rows(document), as_json)


@command.command("prompt")
@click.option("--synthetic", required=True, metavar="S", type=PATH, help="Exams sampled from the phantoms' reports.")
@click.option("--phantoms", required=True, metavar="P", type=PATH, help="What `ccella phantom` wrote.")
@click.option(
    "--repeats", type=click.IntRange(min=100), default=1000, show_default=True, metavar="N", help="Bootstrap resamples."
)
@seed_option("Seed of the bootstrap.")
@report_option
@config_option
@stream_options
def prompt(synthetic: Path, phantoms: Path, repeats: int, seed: int, report: Path | None, as_json: bool) -> None:
    """Whether exams sampled from phantom reports show the lesion that the report names.

    One reader, trained on phantoms alone, reads the exams S and the phantoms P. What it finds in P is the ceiling.
    """
    from ..evaluation.prompts import evaluate_prompt
    from ..evaluation.tables import prompt_rows

    progress = Progress("reading", "exams")
    with progress:
        document = evaluate_prompt(synthetic, phantoms, repeats=repeats, seed=seed, on_item=progress.update)
    if report is not None:
        from ..evaluation.prompt_report import write_prompt_report

        write_prompt_report(report, document)
        say(f"Report: {report}")
    _print(document, ("exams", "figure", "value", "low", "high"), prompt_rows(document), as_json)


def _print(document: dict[str, Any], columns: tuple[str, ...], rows: list[tuple[object, ...]], as_json: bool) -> None:
    with Output(*columns, as_json=as_json) as output:
        if as_json:
            output.add_object(document)
            return
        for row in rows:
            output.add_row(*row)

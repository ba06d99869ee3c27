"""`ccella train`: the parts of a model, on one's own data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..imaging.errors import InputError
from ..zoo.registry import find_card
from .notes import say
from .options import (
    classifier_option,
    model_option,
    output_option,
    resolve_model,
    seed_option,
    split_option,
    stream_options,
)
from .output import Output
from .training_options import choose_card, parse_allowed, parse_options, training_options

if TYPE_CHECKING:
    from ..training.task import Progress


CLASSIFIER = "classifier"


@click.group()
def command() -> None:
    """Train a part of a model; the result is a model folder for --model.

    The order is autoencoder, text-encoder (or one from elsewhere), then `ccella encode`, then denoiser. A
    classifier stands by itself.
    """


@command.command("autoencoder")
@click.argument("exams", type=click.Path(path_type=Path))
@output_option("Model folder; made where missing.")
@model_option
@split_option
@training_options
@stream_options
def train_autoencoder_command(
    exams: Path,
    out: Path,
    model: str | None,
    choice: str | None,
    config: str | None,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the autoencoder of a model on EXAMS (a folder or manifest).

    The model gives the architecture, image grid and default options. Patients are divided as `ccella encode` divides
    them: those of the split train are learnt from, those of val judge, those of test are not looked at.
    """
    from ..imaging.exams import find_exams
    from ..training.autoencoder import train_autoencoder
    from ..training.config import AutoencoderTraining, resolve_options
    from ..training.data import refuse_unfit

    card = choose_card(model, config)
    defaults = card.training.get("autoencoder", {})
    options = resolve_options(AutoencoderTraining, "autoencoder", defaults, parse_options(given), config)
    unfit: list[InputError] = []
    found = find_exams(exams, card.image.channel_names, lambda item_id, error: unfit.append(error))
    refuse_unfit(unfit, len(found) + len(unfit))
    progress = train_autoencoder(
        card,
        found,
        out,
        options,
        split=choice,
        resume=resume,
        log=say,
        allow=parse_allowed(given),
    )
    _print_result("autoencoder", out, progress, as_json)


@command.command("denoiser")
@click.argument("latents", type=click.Path(path_type=Path))
@output_option("Model folder; made where missing.")
@model_option
@click.option(
    "--distill", is_flag=True, help="Train a student of --model that samples in few steps: --set distill_steps=N, or 4."
)
@training_options
@stream_options
def train_denoiser_command(
    latents: Path,
    out: Path,
    model: str | None,
    distill: bool,
    config: str | None,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the denoiser of a model on LATENTS (the output folder of `ccella encode` with the same model)."""
    from ..training.config import DenoiserTraining, resolve_options
    from ..training.denoiser import train_denoiser

    if distill and given["finetune"] is False:
        raise click.UsageError("A student starts with its teacher's weights: leave out --from-scratch.")
    card = choose_card(model, config)
    defaults = card.training.get("denoiser", {})
    explicit = parse_options(given) | ({"distill": True, "initial": "card"} if distill else {})
    options = resolve_options(DenoiserTraining, "denoiser", defaults, explicit, config)
    progress = train_denoiser(card, latents, out, options, resume=resume, log=say, allow=parse_allowed(given))
    _print_result("denoiser", out, progress, as_json)


@command.command("text-encoder")
@output_option("Model folder; made where missing.")
@model_option
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps of the whole run.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Reports per step.")
@seed_option("Of weights and reports.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint; the result is the same.")
@stream_options
def train_text_encoder_command(
    out: Path, model: str | None, steps: int | None, batch_size: int | None, seed: int, resume: bool, as_json: bool
) -> None:
    """Pretrain a small text encoder and its tokenizer on phantom reports.

    It learns to predict the findings that a report states, and is then frozen. The model gives the folder's card,
    unless the folder has one already.
    """
    from ..training.text_encoder import pretrain_text_encoder, resolve_recipe
    from ..zoo.folder import write_model_folder

    card = find_card(str(out.absolute())) if (out / "card.toml").is_file() else resolve_model(model)
    card.part("text_encoder")
    given = {"steps": steps, "batch_size": batch_size}
    recipe = resolve_recipe(card, {name: value for name, value in given.items() if value is not None})
    summary = pretrain_text_encoder(out, seed=seed, resume=resume, log=say, **recipe)
    encoder = out / "text_encoder"
    write_model_folder(out, card, text_encoder=encoder, updates={"provenance": {"text_encoder": summary}})
    with Output("part", "steps", "seconds", "folder", as_json=as_json) as output:
        if as_json:
            output.add_object({"part": "text_encoder", "path": out.as_posix(), **summary})
        else:
            output.add_row("text_encoder", summary["recipe"]["steps"], summary["seconds"], out)


@command.command("classifier")
@click.option(
    "--train",
    "training",
    required=True,
    multiple=True,
    metavar="EXAMS",
    type=click.Path(path_type=Path),
    help="Labelled exams to learn from: a folder or manifest, of real or synthetic exams; repeat it to mix them.",
)
@click.option(
    "--val",
    "validation",
    required=True,
    multiple=True,
    metavar="EXAMS",
    type=click.Path(path_type=Path),
    help="Labelled exams of other patients, by which the weights to keep are chosen.",
)
@output_option("Model folder; made where missing.")
@classifier_option(CLASSIFIER)
@click.option("--init", "start", metavar="MODEL", help="Start from this classifier: --model MODEL --finetune.")
@click.option("--channels", metavar="A,B,..", help="Sequences to look at, such as t2w.  [default: all of the model's]")
@training_options
@stream_options
def train_classifier_command(
    training: tuple[Path, ...],
    validation: tuple[Path, ...],
    out: Path,
    model: str | None,
    start: str | None,
    channels: str | None,
    config: str | None,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a classifier of exams, or fine-tune one.

    The model gives the architecture, image grid and default options: classifier (the published one, the default),
    classifier/phantom, or a classifier that was trained before.
    """
    from ..training.classifier import STAGE, ClassifierTraining, classifier_defaults, select_channels, train_classifier
    from ..training.classifier_data import gather_exams
    from ..training.config import resolve_options

    if start is not None and (model is not None or given["finetune"] is False):
        raise click.UsageError("--init says where to start: leave out --model and --from-scratch.")
    card = choose_card(start or model or CLASSIFIER, config)
    if channels is not None:
        card = select_channels(card, [name.strip() for name in channels.split(",")])
    finetune = start is not None or bool(given["finetune"])
    explicit = parse_options({**given, "finetune": finetune or None})
    options = resolve_options(ClassifierTraining, STAGE, classifier_defaults(card, finetune=finetune), explicit, config)
    names = card.image.channel_names
    learnt, judged = gather_exams(training, names), gather_exams(validation, names)
    progress = train_classifier(card, learnt, judged, out, options, resume=resume, log=say, allow=parse_allowed(given))
    _print_result(STAGE, out, progress, as_json)


def _print_result(part: str, out: Path, progress: "Progress", as_json: bool) -> None:
    from ..training.processes import is_first_process

    if not is_first_process():
        return
    figures = {name: round(value, 5) for name, value in progress.scalars.items()}
    with Output("part", "steps", "seconds", "figures", "folder", as_json=as_json) as output:
        if as_json:
            output.add_object(
                {
                    "part": part,
                    "path": out.as_posix(),
                    "steps": progress.step,
                    "seconds": round(progress.seconds, 1),
                    "hardware": progress.hardware,
                    "figures": figures,
                }
            )
        else:
            words = ", ".join(f"{name} {value:g}" for name, value in figures.items())
            output.add_row(part, progress.step, f"{progress.seconds:.0f}", words, out)

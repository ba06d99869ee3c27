"""`ccella train`: the parts of a model, on one's own data."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..imaging.errors import InputError
from .notes import say
from .options import (
    classifier_option,
    model_option,
    output_option,
    split_option,
    stream_options,
)
from .output import Output
from .training_options import choose_card, parse_allowed, parse_options, training_options

if TYPE_CHECKING:
    from ..training.config import LoopTraining
    from ..training.task import Progress
    from ..zoo.card import Card


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
    """Train the autoencoder of a model on EXAMS (a folder or manifest, or - for the records of another command).

    The model gives the architecture, image grid and default options. Patients are divided as `ccella encode` divides
    them: those of the split train are learnt from, those of val judge, those of test are not looked at.
    """
    from ..imaging.exams import find_exams
    from ..imaging.manifests import exams_from_records
    from ..training.autoencoder import STAGE, train_autoencoder
    from ..training.config import AutoencoderTraining, resolve_options
    from ..training.data import refuse_unfit
    from ..training.processes import compute_once

    card = choose_card(model, config)
    defaults = card.training.get("autoencoder", {})
    options = resolve_options(AutoencoderTraining, "autoencoder", defaults, parse_options(given), config)
    unfit: list[InputError] = []
    names = card.image.channel_names
    if str(exams) == "-":
        found = compute_once(options, lambda: list(exams_from_records(sys.stdin, names)))
    else:
        found = find_exams(exams, names, lambda item_id, error: unfit.append(error))
    refuse_unfit(unfit, len(found) + len(unfit))
    if _only_planned(card, STAGE, out, options, f"{len(found)} exams", given, resume=resume, as_json=as_json):
        return
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
    from ..training.denoiser import STAGE, train_denoiser
    from ..training.latents import count_latents

    if distill and given["finetune"] is False:
        raise click.UsageError("A student starts with its teacher's weights: leave out --from-scratch.")
    card = choose_card(model, config)
    defaults = card.training.get("denoiser", {})
    explicit = parse_options(given) | ({"distill": True, "initial": "card"} if distill else {})
    options = resolve_options(DenoiserTraining, "denoiser", defaults, explicit, config)
    words = f"{count_latents(latents)} encoded exams"
    if _only_planned(card, STAGE, out, options, words, given, resume=resume, as_json=as_json):
        return
    progress = train_denoiser(card, latents, out, options, resume=resume, log=say, allow=parse_allowed(given))
    _print_result("denoiser", out, progress, as_json)


@command.command("text-encoder")
@output_option("Model folder; made where missing.")
@model_option
@training_options
@stream_options
def train_text_encoder_command(
    out: Path, model: str | None, config: str | None, resume: bool, as_json: bool, **given: Any
) -> None:
    """Pretrain a small text encoder and its tokenizer on phantom reports.

    It learns to predict the findings that a report states, and is then frozen. The model gives the folder's card,
    unless the folder has one already.
    """
    from ..training.config import resolve_options
    from ..training.text_encoder import STAGE, check_text_training, train_text_encoder
    from ..training.text_options import TextEncoderTraining

    card = choose_card(str(out.absolute()) if (out / "card.toml").is_file() else model, config)
    options = resolve_options(TextEncoderTraining, STAGE, card.training.get(STAGE, {}), parse_options(given), config)
    check_text_training(card, options)
    if _only_planned(card, STAGE, out, options, "phantom reports", given, resume=resume, as_json=as_json):
        return
    progress = train_text_encoder(card, out, options, resume=resume, log=say, allow=parse_allowed(given))
    _print_result(STAGE, out, progress, as_json)


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
    words = f"{len(learnt)} exams, judged by {len(judged)}"
    if _only_planned(card, STAGE, out, options, words, given, resume=resume, as_json=as_json):
        return
    progress = train_classifier(card, learnt, judged, out, options, resume=resume, log=say, allow=parse_allowed(given))
    _print_result(STAGE, out, progress, as_json)


def _only_planned(
    card: "Card",
    part: str,
    out: Path,
    options: "LoopTraining",
    items: str,
    given: Mapping[str, Any],
    *,
    resume: bool,
    as_json: bool,
) -> bool:
    """Prints the plan where `--dry-run` asks for no more; else makes room for the run where it is to replace one."""
    from ..training.plan import make_room, plan_training

    overwrite = bool(given["overwrite"])
    if not given["dry_run"]:
        make_room(out, part, options, resume=resume, overwrite=overwrite)
        return False
    plan = plan_training(card, part, out, options, resume=resume, overwrite=overwrite, log=say)
    say(f"Would train the {part} of {plan['model']} on {items}, on {plan['hardware']}, into {out}.")
    with Output("option", "value", as_json=as_json) as output:
        if as_json:
            output.add_object({**plan, "items": items})
        else:
            for name, value in plan["options"].items():
                output.add_row(name, value)
    return True


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

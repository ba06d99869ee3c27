"""`ccella train`: the parts of a model, on one's own data."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..imaging.errors import InputError
from ..zoo.registry import find_card
from .notes import say, set_verbosity
from .options import Command, device_option, model_option, output_option, resolve_model, seed_option, stream_options
from .output import Output

if TYPE_CHECKING:
    from ..training.task import Progress
    from ..zoo.card import Card


@click.group()
def command() -> None:
    """Train a part of a model; the result is a model folder for --model.

    The order is autoencoder, text-encoder (or one from elsewhere), then `ccella encode`, then denoiser.
    """


def training_options(command: Command) -> Command:
    """What every part's training takes."""
    for option in (
        click.option("--allow-options", is_flag=True, help="With --resume: options may differ from those of the run."),
        click.option("--allow-world-size", is_flag=True, help="With --resume: another number of processes."),
        click.option("--allow-data", is_flag=True, help="With --resume: other exams."),
        click.option("--resume", is_flag=True, help="Go on from the newest checkpoint; the result is the same."),
        click.option(
            "--finetune/--from-scratch", default=None,
            help="Start from the model's own weights, or from random ones.  [default: --from-scratch]",
        ),
        click.option(
            "--set", "settings", metavar="KEY=VALUE", multiple=True,
            help="Any option of the training, such as learning_rate=1e-4; may be repeated.",
        ),
        click.option(
            "--config", metavar="FILE.toml|RECIPE",
            help="Options of the training, from a file or a published recipe such as ccella-pp; the command line "
            "overrules it.",
        ),
        click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of weights, data order and noise."),
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Items per step."),
        click.option(
            "--epochs", type=click.FloatRange(min=0, min_open=True), metavar="N",
            help="Passes over the exams, instead of --steps.",
        ),
        click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps of the whole run."),
        click.option(
            "--precision", type=click.Choice(("auto", "fp32", "bf16", "fp16")), default="auto",
            help="Number format; auto takes the model's.",
        ),
        device_option,
    ):  # fmt: skip
        command = option(command)
    return command


@command.command("autoencoder")
@click.argument("exams", type=click.Path(path_type=Path))
@output_option("Model folder; made where missing.")
@model_option
@training_options
@stream_options
def train_autoencoder_command(
    exams: Path,
    out: Path,
    model: str | None,
    config: str | None,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the autoencoder of a model on EXAMS (a folder or manifest).

    The model gives the architecture, image grid and default options.
    """
    from ..imaging.exams import find_exams
    from ..training.autoencoder import train_autoencoder
    from ..training.config import AutoencoderTraining, resolve_options

    card = choose_card(model, config)
    defaults = card.training.get("autoencoder", {})
    options = resolve_options(AutoencoderTraining, "autoencoder", defaults, parse_options(given), config)
    progress = train_autoencoder(
        card,
        find_exams(exams, card.image.channel_names),
        out,
        options,
        resume=resume,
        log=say,
        allow=parse_allowed(given),
    )
    _print_result("autoencoder", out, progress, as_json)


@command.command("denoiser")
@click.argument("latents", type=click.Path(path_type=Path))
@output_option("Model folder; made where missing.")
@model_option
@training_options
@stream_options
def train_denoiser_command(
    latents: Path,
    out: Path,
    model: str | None,
    config: str | None,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the denoiser of a model on LATENTS (the output folder of `ccella encode` with the same model)."""
    from ..training.config import DenoiserTraining, resolve_options
    from ..training.denoiser import train_denoiser

    card = choose_card(model, config)
    defaults = card.training.get("denoiser", {})
    options = resolve_options(DenoiserTraining, "denoiser", defaults, parse_options(given), config)
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


def choose_card(model: str | None, config: str | None) -> "Card":
    """The card of `--model`, or of the default, with the changes that the recipe makes to it."""
    from ..training.processes import is_first_process
    from ..training.recipes import apply_recipe

    if not is_first_process():
        # Started once per device: one process speaks for all.
        set_verbosity(-1)
    card = resolve_model(model)
    return card if config is None else apply_recipe(card, config)


def parse_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The training options that were given, by name: those with an option of their own, and those of `--set`."""
    named = {
        "steps": given["steps"],
        "epochs": given["epochs"],
        "initial": {None: None, True: "card", False: "scratch"}[given["finetune"]],
        "batch_size": given["batch_size"],
        "seed": given["seed"],
        "device": None if given["device"] == "auto" else given["device"],
        "precision": None if given["precision"] == "auto" else given["precision"],
    }
    explicit = {name: value for name, value in named.items() if value is not None}
    for setting in given["settings"]:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--set {setting!r} is not KEY=VALUE.", "Write for example --set learning_rate=1e-4.")
        if name in explicit:
            raise InputError(f"{name} is given twice.", "Give it once.")
        explicit[name] = parse_value(text.strip())
    return explicit


def parse_allowed(given: Mapping[str, Any]) -> tuple[str, ...]:
    """What may differ from the run that is resumed."""
    return tuple(name for name in ("options", "world_size", "data") if given[f"allow_{name}"])


def parse_value(text: str) -> Any:
    """A value as TOML writes it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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

"""The options that every part's training takes, and what they mean."""

import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ..imaging.errors import InputError
from .notes import set_verbosity
from .options import Command, device_option, resolve_model

if TYPE_CHECKING:
    from ..zoo.card import Card


def training_options(command: Command) -> Command:
    """What every part's training takes."""
    for option in (
        click.option("--allow-options", is_flag=True, help="With --resume: options may differ from those of the run."),
        click.option("--allow-world-size", is_flag=True, help="With --resume: another number of processes."),
        click.option("--allow-data", is_flag=True, help="With --resume: other exams."),
        click.option("--dry-run", is_flag=True, help="Say what would be trained on what, and do nothing."),
        click.option("--overwrite", is_flag=True, help="Replace an earlier run of this part in the folder."),
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

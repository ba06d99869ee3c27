"""Options that several commands share, each declared once, so that it means the same thing everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..pipeline.seeds import Shard, parse_seeds, parse_shard
from ..zoo.card import Card
from ..zoo.registry import DEFAULT_MODEL, find_card
from .notes import say, set_verbosity

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL_VARIABLE = "CCELLA_MODEL"


class SeedsType(click.ParamType[tuple[int, ...]]):
    """A list of seeds such as `0-15,40`."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parses the list; errors carry their own remedy."""
        return value if isinstance(value, tuple) else parse_seeds(value)


class ShardType(click.ParamType[Shard]):
    """One share of a run, such as `2/3`."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Parses the share; errors carry their own remedy."""
        return value if isinstance(value, Shard) else parse_shard(value)


class NumbersType(click.ParamType[tuple[float, ...]]):
    """Positive numbers separated by commas.

    Args:
        labels: What each number is, such as `X`, `Y`, `Z`.
        kind: `float` or `int`.
        zero: 0 is allowed too.
    """

    def __init__(self, *labels: str, kind: Callable[[str], float] = float, zero: bool = False) -> None:
        self.labels = labels
        self.kind = kind
        self.zero = zero
        self.name = ",".join(labels)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parses the numbers and checks that each is positive, or 0 where that is allowed."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        fits = all(0 < number < float("inf") or (self.zero and number == 0) for number in numbers)
        if len(numbers) != len(self.labels) or not fits:
            what = "whole numbers" if self.kind is int else "numbers"
            allowed = f"{what} of at least 0" if self.zero else f"positive {what}"
            message = f"{value!r} is not {len(self.labels)} {allowed} separated by commas."
            raise click.BadParameter(message, ctx, param)
        return numbers


class DeviceType(click.ParamType[str]):
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; whether the machine has it is seen when it is used."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the form."""
        head, _, index = str(value).partition(":")
        if value in ("auto", "cpu", "cuda", "mps") or (head == "cuda" and index.isdecimal()):
            return str(value)
        raise click.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N, mps.", ctx, param)


class MemoryType(click.ParamType[int]):
    """A memory such as `8GB` or `500MB`, in bytes (1 MB is 2^20)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses the size."""
        if isinstance(value, int):
            return value
        number, unit = str(value)[:-2], str(value)[-2:].upper()
        if unit not in ("MB", "GB") or not number.replace(".", "", 1).isdecimal() or float(number) <= 0:
            raise click.BadParameter(f"{value!r} is not a memory such as 8GB or 500MB.", param=param, ctx=ctx)
        return int(float(number) * 2 ** (20 if unit == "MB" else 30))


class BatchSizeType(click.ParamType[int | None]):
    """A number of items, or `auto` (None): as many as fit into memory."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parses the number."""
        if value is None or isinstance(value, int):
            return value
        if value == "auto":
            return None
        if not (value.isascii() and value.isdecimal()) or int(value) < 1:
            raise click.BadParameter(f"{value!r} is not a number of at least 1, nor auto.", param=param, ctx=ctx)
        return int(value)


class RuntimeType(click.ParamType[str]):
    """`auto`, `torch`, `onnx`, `tensorrt`, or `onnx:PROVIDER`; whether the machine has it is seen when it is used."""

    name = "runtime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the form."""
        known = ("auto", "torch", "onnx", "onnx:cpu", "onnx:cuda", "onnx:tensorrt", "tensorrt")
        if value in known:
            return str(value)
        raise click.BadParameter(f"{value!r} is not one of {', '.join(known)}.", param=param, ctx=ctx)


def _verbosity(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, param: click.Parameter, given: bool) -> None:
        if given:
            set_verbosity(level)

    return callback


def stream_options(command: Command) -> Command:
    """`--json`, `-q` and `-v`: what goes to the two streams."""
    for option in (
        click.option(
            "-v", "--verbose", is_flag=True, is_eager=True, expose_value=False, callback=_verbosity(1),
            help="Also say what libraries warn of.",
        ),
        click.option(
            "-q", "--quiet", is_flag=True, is_eager=True, expose_value=False, callback=_verbosity(-1),
            help="No notes and no progress; errors only.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON record per result on standard output."),
    ):  # fmt: skip
        command = option(command)
    return command


def model_option(command: Command) -> Command:
    """`--model`: which model."""
    return click.option(
        "--model", metavar="NAME", envvar=MODEL_VARIABLE, show_envvar=True,
        help="family, family/variant or ./directory, with @revision where it comes from the Hub."
        f"  [default: {DEFAULT_MODEL}]",
    )(command)  # fmt: skip


def classifier_option(default: str) -> Callable[[Command], Command]:
    """`--model` of a command that needs a classifier; the variable speaks of models that make images."""
    return click.option(
        "--model", metavar="NAME", help=f"A classifier: family, family/variant or ./directory.  [default: {default}]"
    )


def resolve_model(name: str | None) -> Card:
    """The card of `--model`, or of the default, which is said."""
    if name is None:
        say(
            f"Model: {DEFAULT_MODEL}, trained on phantoms, not on patients. "
            f"For your own use --model ./folder or set {MODEL_VARIABLE}."
        )
    return find_card(name if name is not None else DEFAULT_MODEL)


device_option = click.option(
    "--device", type=DeviceType(), default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|mps",
    help="Where networks run.",
)  # fmt: skip


preset_option = click.option(
    "--preset", metavar="NAME",
    help="fast, balanced, paper: sampler, steps and guidance that the model's card names; see `ccella zoo show`.",
)  # fmt: skip


steps_option = click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Sampling steps.  [default: the model's]"
)


_batch_size_help = "Items at a time; does not change what comes out."


batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help=_batch_size_help
)


fitting_batch_size_option = click.option(
    "--batch-size", type=BatchSizeType(), default=1, show_default=True, metavar="N|auto",
    help=f"{_batch_size_help} auto: as many as fit into --memory, or into what is free.",
)  # fmt: skip


def compute_options(command: Command) -> Command:
    """`--device`, `--runtime` and `--precision`: what executes a model."""
    for option in (
        click.option(
            "--precision", type=click.Choice(("auto", "fp32", "fp16", "bf16")), default="auto", show_default=True,
            help="Number format of the networks.",
        ),
        click.option(
            "--runtime", type=RuntimeType(), default="auto", show_default=True,
            metavar="auto|torch|onnx[:PROVIDER]|tensorrt",
            help="What executes the networks; onnx and tensorrt need `ccella export`.",
        ),
        device_option,
    ):  # fmt: skip
        command = option(command)
    return command


memory_option = click.option(
    "--memory", "memory_bytes", type=MemoryType(), metavar="SIZE",
    help="What decoding, and a batch of `sample --batch-size auto`, may take beside the weights, such as 6GB; less is "
    "slower, the images are the same.  [default: 8GB for decoding]",
)  # fmt: skip


seeds_option = click.option(
    "--seed", "seeds", type=SeedsType(), metavar="LIST",
    help="Seeds such as 0-15,40: each item is made once per seed.  [default: one per item, from its id]",
)  # fmt: skip


def seed_option(help_text: str) -> Callable[[Command], Command]:
    """`--seed` of a command that takes one only."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help=help_text)


def output_option(help_text: str) -> Callable[[Command], Command]:
    """`-o DIR`: where the artefacts go."""
    return click.option(
        "-o", "--output", "out", required=True, metavar="DIR", type=click.Path(path_type=Path), help=help_text
    )


split_option = click.option(
    "--split", "choice", metavar="SHARES|COLUMN|FILE.csv|none",
    help="Patients in train, val and test: shares, a column that tells, or another run's splits.csv.  "
    "[default: the column split, or 80:5:15]",
)  # fmt: skip


def run_options(command: Command) -> Command:
    """`--shard`, `--resume`, `--overwrite` and `--dry-run`: how a run folder is filled."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
        click.option("--resume", is_flag=True, help="Go on where an earlier run of the same command stopped."),
        click.option("--shard", type=ShardType(), metavar="I/N", help="Do only the I-th of N equal shares."),
    ):
        command = option(command)
    return command

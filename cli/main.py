"""The `ccella` command. Each subcommand lies in a file of its own and is imported when it is named."""

import importlib
import io
import os
import signal
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from .. import __version__
from ..imaging.errors import InputError
from .errors import FAILED, report

COMMANDS = {
    "sample": "sample",
    "encode": "encode",
    "decode": "decode",
    "classify": "classify",
    "evaluate": "evaluate",
    "study": "study",
    "train": "train",
    "export": "export",
    "zoo": "zoo",
    "phantom": "phantom",
    "bench": "bench",
    "doctor": "doctor",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command; None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name]}", __package__)
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown command is met with the nearest known one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else f" The commands are {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, "
    "2 wrong usage or bad input, 3 weights missing or offline, 4 licence or access, 5 digest mismatch, "
    "6 out of memory, 7 some items failed, 130 interrupted. CCELLA_DEBUG=1 adds tracebacks.",
)
@click.version_option(__version__, prog_name="ccella", message="%(prog)s %(version)s")
def ccella() -> None:
    """Labelled synthetic medical images from models that labs train themselves.

    A radiology report in, a biparametric prostate MRI exam out:

    \b
      ccella sample --prompt report.txt -o demo
    """  # noqa: D301 - click reads the escape


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    # A scheduler's and a container's way to stop a process, which as the first process of a container would not die of
    # it; as an interruption it leaves no temporary file behind.
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run())


def run(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: Words after the program's name; those of the process when None.

    Returns:
        The exit code.
    """
    _set_environment()
    try:
        _check_words(sys.argv[1:] if args is None else args)
        result = ccella.main(args=args, prog_name="ccella", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _close_output()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx is not None else "", err=True)
        return 2
    except (Exception, KeyboardInterrupt) as error:
        return report(error, _find_options(sys.argv[1:] if args is None else args))
    return result if isinstance(result, int) else 0


def _check_words(words: list[str]) -> None:
    """Refuses what could become no path and no line of a manifest."""
    if "" in words:
        # As a path it would mean the working directory, which nobody meant.
        raise click.UsageError("An argument is empty; a variable in the command may be unset.")
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            # Bytes that mean nothing in the locale, which Python carries along as halves of characters.
            shown = word.encode(errors="replace").decode()
            raise InputError(
                f"The argument {shown!r} holds letters that this locale cannot read.",
                "Set a locale of UTF-8, such as LC_ALL=C.UTF-8, or use a name of letters A to Z.",
            ) from None


def _find_options(words: list[str]) -> set[str]:
    """The options of the command that was called: those are what a remedy may name."""
    command: click.Command = ccella
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word) or command
    return {name for param in command.params for name in param.opts}


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(f"Stopped by {signal.Signals(number).name}.")


def _set_environment() -> None:
    """Quiets libraries that would speak for themselves; a variable that the user set stays as it is."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Reports hold accents, and JSON lines are UTF-8 whatever the terminal's locale: a cluster's is often plain ASCII.
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


def _close_output() -> int:
    """Ends quietly when the reader of standard output has gone, such as `head`."""
    # The interpreter flushes once more at exit: give it something that takes it.
    with Path(os.devnull).open("wb") as sink:
        os.dup2(sink.fileno(), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    main()

"""What a command says beside its results: notes and warnings, on standard error, and nothing under `-q`."""

import logging
import sys
import warnings

import click

_KEY = "ccella.verbosity"


def set_verbosity(level: int) -> None:
    """Sets how much the running command says: -1 errors only, 0 notes, 1 also what libraries warn of."""
    click.get_current_context().meta[_KEY] = level
    logging.basicConfig(format="%(message)s", level=(logging.ERROR, logging.WARNING, logging.INFO)[level + 1], force=True)
    if level > 0:
        warnings.resetwarnings()


def verbosity() -> int:
    """How much the running command says; 0 outside a command."""
    context = click.get_current_context(silent=True)
    return 0 if context is None else int(context.meta.get(_KEY, 0))


def say(message: str) -> None:
    """Writes one line for the user to standard error, unless `-q` was given."""
    if verbosity() >= 0:
        write(message)


def write(message: str) -> None:
    """Writes one line to standard error, whatever the verbosity."""
    try:
        print(message, file=sys.stderr, flush=True)  # noqa: T201 - this is the one place that writes there
    except BrokenPipeError:
        sys.stderr = None  # type: ignore[assignment]  # nobody reads it any more

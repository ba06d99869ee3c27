"""What a command says beside its results: notes and warnings, on standard error, and nothing under `-q`."""

import logging
import os
import sys
import warnings
from pathlib import Path

import click

_KEY = "ccella.verbosity"


def set_verbosity(level: int) -> None:
    """Sets how much the running command says: -1 errors only, 0 notes, 1 also what libraries warn of."""
    click.get_current_context().meta[_KEY] = level
    threshold = (logging.ERROR, logging.WARNING, logging.INFO)[level + 1]
    logging.basicConfig(format="%(message)s", level=threshold, force=True)
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
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        # Nobody reads it any more; the results on standard output still matter.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends

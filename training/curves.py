"""Curves of a run as TensorBoard event files, where they are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError


class Curves:
    """Writes scalars, and does nothing without a folder.

    Args:
        folder: For the event files; None writes none.
        step: The step that the run goes on from: later points of an earlier attempt are dropped.

    Raises:
        InputError: The package tensorboard is not installed.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "Option tensorboard is set, and the Python package tensorboard is not installed.",
                "Run `pip install tensorboard`, or leave the option out: metrics.jsonl holds the same figures.",
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Adds one point to each curve."""
        if self._writer is None:
            return
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.close()

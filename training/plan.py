"""Before a training: what it would do, and room for it where an earlier run is to be replaced."""

import secrets
import shutil
from pathlib import Path
from typing import Any

from ..export.devices import choose_device
from ..imaging.errors import InputError
from ..imaging.locks import FileLock, LockUnsupportedError
from ..zoo.card import Card
from .config import LoopTraining, plain_options
from .export import check_companions
from .loop import LOCK_FILE, refuse_existing, run_folder
from .processes import compute_once, settle_precision
from .reporting import describe_device
from .task import Log, no_log


def plan_training(
    card: Card, part: str, out: Path, options: LoopTraining, *, resume: bool, overwrite: bool, log: Log = no_log
) -> dict[str, Any]:
    """What a training would do, without writing anything.

    Args:
        card: The template.
        part: To be trained.
        out: The model folder.
        options: Of the training.
        resume: Whether it would go on with an earlier run.
        overwrite: Whether it would replace one.
        log: Is told of parts that would have to be trained anew.

    Returns:
        Part, folder, model, device in words and all options, JSON-able.

    Raises:
        InputError: The training would be refused: see `loop.train` and `export.check_companions`.
    """
    _check_choice(resume, overwrite)
    refuse_existing(out, part, resume or overwrite)
    check_companions(card, part, out, log)
    device = choose_device(options.device)
    return {
        "part": part,
        "path": out.as_posix(),
        "model": card.id,
        "hardware": describe_device(device),
        "options": plain_options(settle_precision(options)),
    }


def make_room(out: Path, part: str, options: LoopTraining, *, resume: bool, overwrite: bool) -> None:
    """Removes an earlier run that is to be replaced; the part that it made stays until the new one is whole.

    Raises:
        InputError: Both are asked for, or another process trains there.
    """
    _check_choice(resume, overwrite)
    if overwrite:
        compute_once(options, lambda: _remove_run(run_folder(out, part)))


def _check_choice(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other.", "Give one of them.")


def _remove_run(folder: Path) -> None:
    if not folder.is_dir():
        return
    lock = FileLock(folder / LOCK_FILE)
    try:
        try:
            free = lock.acquire()
        except LockUnsupportedError:
            free = True
        if not free:
            raise InputError(f"Another process is training in {folder}.", "Wait for it, or give another -o.")
        for path in sorted(folder.iterdir()):
            if path.name == LOCK_FILE:
                continue
            # Renamed first: a kill in the middle leaves no checkpoints that pass for a run.
            doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            path.rename(doomed)
            if doomed.is_dir():
                shutil.rmtree(doomed)
            else:
                doomed.unlink()
    finally:
        lock.release()

"""Checkpoints: folders that appear whole or not at all, bounded in number, without pickles.

A checkpoint is `step-<8 digits>/` with one safetensors file per group of tensors and `state.json`. It is written under
a temporary name, flushed and renamed, so a folder with the final name is complete.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..imaging.errors import InputError
from .sharding import share_like

_NAME = re.compile(r"step-(\d{8,})")
_PART = ".part"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: Its folder.
        step: Optimizer steps done when it was written.
    """

    path: Path
    step: int

    def state(self) -> dict[str, Any]:
        """What was saved beside the tensors."""
        data: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        return data

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The tensors of a group, on the CPU.

        Raises:
            InputError: The group's file is missing.
        """
        from safetensors.torch import load_file

        file = self.path / f"{group}.safetensors"
        if not file.is_file():
            raise InputError(
                f"Checkpoint {self.path} lacks {file.name}.", "Remove that folder to resume from an earlier one."
            )
        return load_file(file)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a folder, oldest first; none when the folder does not exist."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and (path / STATE).is_file():
            found.append(Checkpoint(path, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def find_checkpoint(folder: Path, step: int | None) -> Checkpoint | None:
    """The complete checkpoint of a step, or None."""
    return next((checkpoint for checkpoint in list_checkpoints(folder) if checkpoint.step == step), None)


def save_checkpoint(
    folder: Path, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int,
    spare: int | None = None,
) -> Checkpoint:  # fmt: skip
    """Writes a checkpoint, then removes all but the newest `keep` and the one to spare.

    Args:
        folder: Where checkpoints lie; created if need be.
        step: Optimizer steps done.
        groups: Tensors by name, by group.
        state: JSON-able values.
        keep: How many checkpoints to keep, at least 1.
        spare: Step of a checkpoint that is kept beside the newest, such as the best one.

    Raises:
        OSError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{secrets.token_hex(4)}{_PART}"
    temporary.mkdir()
    try:
        for group, tensors in groups.items():
            # safetensors refuses tensors that share memory or are not contiguous; a checkpoint holds plain copies.
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            _write_tensors(temporary / f"{group}.safetensors", plain)
        (temporary / STATE).write_text(json.dumps(dict(state), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if final.exists():
            _remove(final)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder)
    for old in list_checkpoints(folder)[:-keep]:
        if old.step != spare:
            _remove(old.path)
    return Checkpoint(final, step)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file; a full disk is the OSError that it is everywhere else."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors.

    Args:
        optimizer: Any whose state per parameter is tensors, such as AdamW.
        names: Parameter name by `id(parameter)`.

    Returns:
        Tensors by `<parameter>/<key>`.
    """
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, entry in optimizer.state.items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Takes over what `optimizer_tensors` saved; each tensor gets its parameter's device, memory layout and sharding.

    Raises:
        InputError: A saved tensor belongs to no parameter.
    """
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise InputError(f"The checkpoint's optimizer holds {name!r}, which the network lacks.", "Start a new run.")
        parameter = parameters[name]
        if value.shape == parameter.shape:
            optimizer.state[parameter][entry] = share_like(value, parameter)
        else:
            # The fused optimizer wants its step counts where the weights are.
            optimizer.state[parameter][entry] = value.to(parameter.device)


def _sweep(folder: Path) -> None:
    """Removes what killed runs left half written."""
    for path in folder.glob(f".*{_PART}"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    # Renamed first, so that a kill in the middle of the removal leaves no folder that passes for complete.
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _flush(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

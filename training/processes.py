"""The processes of one run: who speaks for all, and what only one of them should do.

`accelerate launch` and `torchrun` start one process per device and tell each its number in the environment.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..export.devices import choose_device, computes_in_bf16
from ..imaging.errors import InputError
from .config import LoopTraining, Options

Value = TypeVar("Value")


def is_first_process() -> bool:
    """Whether this process is the one that writes files and speaks; true where there is only one."""
    return os.environ.get("RANK", "0") == "0"


def compute_once(options: LoopTraining, make: Callable[[], Value]) -> Value:
    """Lets the first process compute a value and hands it to the others.

    A text encoder of 45 GB or the reading of a thousand exams need not happen once per device.

    Args:
        options: Of the run; they say whether the processes work on CPUs.
        make: Computes the value, which is pickled on its way.

    Returns:
        The value, equal on all processes.

    Raises:
        InputError: On the other processes, where the first one failed; that one raises what `make` raised.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    state = process_state(options)
    carried: list[Any] = [None, False]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            carried = [make(), True]
        except Exception as error:
            failure = error
    value, made = broadcast_object_list(carried)
    if failure is not None:
        raise failure
    if not made:
        raise InputError("The first process could not prepare the run.", "Its own message says why.")
    return value


def settle_precision(options: Options) -> Options:
    """The options with the number format that "auto" comes to on their device: bf16 where it computes in it, or fp32.

    Raises:
        InputError: The device is not there.
    """
    if options.precision != "auto":
        return options
    return replace(options, precision="bf16" if computes_in_bf16(choose_device(options.device)) else "fp32")


def process_state(options: LoopTraining) -> Any:
    """Accelerate's record of the processes, with the device that the options name; to be asked before an Accelerator.

    Raises:
        InputError: The device is not there, or one device is named for several processes.
    """
    from accelerate import PartialState

    device = choose_device(options.device)
    state = PartialState(cpu=device.type == "cpu")
    if state.num_processes > 1:
        if device.type == "mps" or options.device.startswith("cuda:"):
            raise InputError(
                f"Option device is {options.device!r}, one device for {state.num_processes} processes.",
                'Set device = "cuda" or "auto": the launcher gives each process its own.',
            )
        return state
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Accelerate decides once per process; a second training in it may want another device.
    state.device = device
    return state

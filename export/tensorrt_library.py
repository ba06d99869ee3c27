"""The package tensorrt, the GPU that it works on, and what it says when it fails."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..imaging.errors import InputError
from .devices import choose_device
from .errors import OutOfMemoryError, find_failed_allocation

# The first NVIDIA GPUs that compute in bfloat16 (Ampere).
BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """The GPU an engine is for: its name and compute capability, such as "9.0"."""

    device: torch.device
    name: str
    capability: str


def import_tensorrt() -> Any:
    """The module; InputError with the install line where it is missing."""
    try:
        import tensorrt
    except ImportError as error:
        raise InputError(
            f"Runtime tensorrt needs the package tensorrt, which cannot be imported ({error}).",
            "On a machine with an NVIDIA GPU: pip install 'ccella[gpu]'; elsewhere use --runtime torch or onnx.",
        ) from error
    return tensorrt


def find_gpu(requested: str) -> Gpu:
    """The GPU a request for a device means.

    Raises:
        InputError: This machine lacks it, or the device is no NVIDIA GPU.
    """
    device = choose_device("cuda" if requested == "auto" else requested)
    if device.type != "cuda":
        raise InputError(f"TensorRT does not run on device {device}.", "Use --device cuda, or --runtime torch or onnx.")
    if device == torch.device("cuda"):
        # Whichever is the current one, by its number.
        device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(device, torch.cuda.get_device_name(device), f"{major}.{minor}")


def check_gpu_precision(precision: str, gpu: Gpu) -> None:
    """InputError where a GPU cannot compute in a precision."""
    capability = tuple(int(number) for number in gpu.capability.split("."))
    if precision == "bf16" and capability < BF16_CAPABILITY:
        raise InputError(
            f"Precision bf16 was asked for on {gpu.name}, whose compute capability {gpu.capability} lacks it.",
            "Use --precision fp16 or fp32 there; bf16 needs compute capability 8.0.",
        )


@contextmanager
def enter_gpu(device: torch.device) -> Iterator[None]:
    """Makes a GPU the current one: TensorRT builds, loads and executes there, wherever the tensors are."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


@dataclass(frozen=True)
class ErrorLog:
    """What TensorRT says of errors.

    Attributes:
        logger: What its objects are made with.
        lines: The last errors; cleared before a call whose errors matter.
    """

    logger: Any
    lines: deque[str]

    def take(self) -> str:
        """The errors since the last call as one line, which may be empty."""
        text = " ".join("; ".join(self.lines).split())
        self.lines.clear()
        return text


@lru_cache(maxsize=1)
def error_log(trt: Any) -> ErrorLog:
    """The one log of the process: TensorRT ignores every logger but the first that it was given."""
    lines: deque[str] = deque(maxlen=8)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                lines.append(message)

    return ErrorLog(Logger(), lines)


def describe_failure(what: str, said: str) -> RuntimeError:
    """The error to raise where TensorRT failed: OutOfMemoryError where its own words speak of memory.

    Args:
        what: What was being done, such as "TensorRT, executing the decoder".
        said: The words, from `ErrorLog.take`.
    """
    error = RuntimeError(f"{what}: {said or 'it failed without a word'}")
    return error if find_failed_allocation(RuntimeError(said)) is None else OutOfMemoryError(str(error))

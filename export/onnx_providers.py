"""Providers of ONNX Runtime: which one executes graphs, with which options, and whether it does so for every node."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..imaging.errors import InputError
from .devices import choose_device
from .errors import OutOfMemoryError, name_allocations
from .provider_names import PROVIDERS

# Arithmetic on shapes, which ONNX Runtime leaves on the CPU on purpose: its results are needed there. A GPU's provider
# has kernels for all of these, so that none is on the CPU for want of one.
SHAPE_OPERATORS = {
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather",
    "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not",
    "Or", "Range", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
}  # fmt: skip
# Makes a session remember which provider each node went to.
RECORD_NODES = "session.record_ep_graph_assignment_info"
# The TensorRT provider has no option for TF32 and takes it unless this variable, which it reads when it builds, is 0.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"


def import_onnxruntime() -> Any:
    """The module; InputError with the install line where it is missing."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError(
            "Runtime onnx needs the package onnxruntime, which is not installed.",
            "pip install 'ccella[cpu]', or 'ccella[gpu]' on a machine with an NVIDIA GPU.",
        ) from error
    return onnxruntime


def choose_onnx_device(requested: str) -> torch.device:
    """The device a request means. `auto` takes CUDA where PyTorch and ONNX Runtime both have it, else the CPU.

    Raises:
        InputError: See `runtimes.choose_device`.
    """
    if requested != "auto":
        return choose_device(requested)
    has_cuda = PROVIDERS["cuda"] in import_onnxruntime().get_available_providers()
    return torch.device("cuda" if has_cuda and torch.cuda.is_available() else "cpu")


def choose_provider(requested: str, device: torch.device) -> str:
    """Which provider executes graphs.

    Args:
        requested: auto, cpu, cuda or tensorrt. `auto` takes the CPU's or CUDA's, as the device says.
        device: Where tensors live.

    Raises:
        InputError: The provider is unknown, does not go with the device, or the installed package lacks it.
    """
    if requested not in ("auto", *PROVIDERS):
        raise InputError(f"{requested!r} is not a provider of ONNX Runtime.", f"Use auto, {', '.join(PROVIDERS)}.")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"ONNX Runtime does not run on device {device} here.", "Use --device cpu or cuda.")
    provider = device.type if requested == "auto" else requested
    if (provider == "cpu") != (device.type == "cpu"):
        raise InputError(
            f"Provider {provider} of ONNX Runtime does not go with device {device}.",
            f"Use --device {'cpu' if provider == 'cpu' else 'cuda'}.",
        )
    available = import_onnxruntime().get_available_providers()
    if PROVIDERS[provider] not in available:
        raise InputError(
            f"The installed ONNX Runtime has no {PROVIDERS[provider]} (it has {', '.join(available)}).",
            "Replace onnxruntime by onnxruntime-gpu: pip uninstall onnxruntime; pip install 'ccella[gpu]'",
        )
    return provider


def cuda_options(device: torch.device) -> dict[str, str]:
    """Options of the CUDA provider: fp32 is fp32, not TF32, whose mantissa has 10 bits."""
    return {"device_id": str(device.index or 0), "use_tf32": "0"}


def tensorrt_options(
    device: torch.device,
    precision: str,
    inputs: Mapping[str, Sequence[int | str]],
    profile: Mapping[str, Mapping[str, int]],
    folder: Path,
) -> dict[str, str]:
    """Options of the TensorRT provider: one engine for the whole range of shapes, kept in a folder.

    Args:
        device: The GPU.
        precision: Of the graph.
        inputs: Axes or fixed sizes of each input.
        profile: Smallest, best and largest size of each axis.
        folder: Where engine and timing cache are kept; everything that they depend on has to be in its name.
    """
    options = {
        "device_id": str(device.index or 0),
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_bf16_enable": str(int(precision == "bf16")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    for option, which in (("min", "minimum"), ("opt", "optimum"), ("max", "maximum")):
        shapes = []
        for name, shape in inputs.items():
            sizes = [size if isinstance(size, int) else profile[size][which] for size in shape]
            shapes.append(f"{name}:{'x'.join(map(str, sizes))}")
        options[f"trt_profile_{option}_shapes"] = ",".join(shapes)
    return options


def open_session(path: Path, provider: str, device: torch.device, options: Mapping[str, str] | None = None) -> Any:
    """A session that executes a graph with one provider.

    Args:
        path: The ONNX file.
        provider: cpu, cuda or tensorrt.
        device: Where tensors live.
        options: Of the TensorRT provider, see `tensorrt_options`.

    Raises:
        InputError: The file is no ONNX graph, or the provider cannot execute all of it.
        OutOfMemoryError: There is not enough memory for it.
    """
    runtime = import_onnxruntime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry(RECORD_NODES, "1")
    if provider == "tensorrt":
        os.environ.setdefault(TF32_VARIABLE, "0")
    try:
        with name_allocations(f"ONNX Runtime, loading {path.name}"):
            session = runtime.InferenceSession(str(path), settings, providers=provider_list(provider, device, options))
    except OutOfMemoryError:
        raise
    except Exception as error:
        # ONNX Runtime has a class of its own for every kind of failure, below Exception alone.
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"ONNX Runtime cannot execute {path}: {detail}", "Export the graph again.") from error
    # It falls back to the CPU by itself when a provider's libraries do not load.
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise InputError(
            f"ONNX Runtime could not start {PROVIDERS[provider]} and would run on {session.get_providers()[0]}.",
            "Install the CUDA and cuDNN libraries that its version needs, or use --device cpu.",
        )
    check_nodes(session, provider, path)
    return session


def provider_list(provider: str, device: torch.device, options: Mapping[str, str] | None = None) -> list[Any]:
    """The providers of a session, the one that is asked for first; arguments as `open_session`.

    TensorRT is followed by CUDA, which else would be the CPU: arithmetic on shapes goes there.
    """
    if provider == "cpu":
        return [PROVIDERS["cpu"]]
    cuda = (PROVIDERS["cuda"], cuda_options(device))
    return [cuda] if provider == "cuda" else [(PROVIDERS["tensorrt"], dict(options or {})), cuda]


def check_nodes(session: Any, provider: str, path: Path) -> None:
    """Makes sure that a session computes with the provider that was asked for alone, but for arithmetic on shapes.

    ONNX Runtime moves single nodes elsewhere when a provider has no kernel for them, and says nothing.

    Raises:
        InputError: Some nodes went to another provider, or the installed version does not tell.
    """
    if provider == "cpu":
        return
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise InputError(
            f"ONNX Runtime {import_onnxruntime().__version__} does not tell which provider executes a node.",
            "Install a newer one: pip install --upgrade onnxruntime-gpu",
        )
    elsewhere: dict[str, set[str]] = {}
    found = False
    for group in session.get_provider_graph_assignment_info():
        if group.ep_name == PROVIDERS[provider]:
            found = True
            continue
        names = {node.op_type for node in group.get_nodes()} - SHAPE_OPERATORS
        if names:
            elsewhere.setdefault(group.ep_name, set()).update(names)
    if found and not elsewhere:
        return
    where = "; ".join(f"{', '.join(sorted(names))} to {name}" for name, names in sorted(elsewhere.items()))
    raise InputError(
        f"{PROVIDERS[provider]} does not execute all of {path.name}: {where or 'nothing was given to it'}.",
        "Use --runtime torch" + (", onnx:cuda or tensorrt." if provider == "tensorrt" else "."),
    )

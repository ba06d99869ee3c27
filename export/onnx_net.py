"""One exported graph, executed by ONNX Runtime with the provider that was asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..imaging.errors import InputError
from .devices import choose_device

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}


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


class OnnxNet:
    """An exported graph, ready to run.

    Args:
        path: The ONNX file.
        axes: `minimum`, `maximum` and `multiple` of the dynamic axes, by name, as its record has them.
        provider: cpu, cuda or tensorrt.
        inputs: Axes or fixed sizes of each input; nothing is checked against them when None.
        device: Where tensors live.

    Raises:
        InputError: The file is no ONNX graph, or not one of this name, or the provider cannot execute it.
    """

    def __init__(
        self,
        path: Path,
        axes: Mapping[str, Mapping[str, int]],
        *,
        provider: str,
        inputs: Mapping[str, Sequence[int | str]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._path = path
        self._axes = axes
        self._expected = inputs
        self.device = torch.device("cpu") if device is None else device
        self._session = _open(path, provider, self.device)
        self.outputs = [output.name for output in self._session.get_outputs()]
        self._types = {}
        for entry in self._session.get_inputs():
            if entry.type not in TYPES:
                raise InputError(f"{path} takes {entry.name} as {entry.type}.", "Export the graph again.")
            self._types[entry.name] = TYPES[entry.type]
        if inputs is not None and set(inputs) != set(self._types):
            raise InputError(
                f"{path} takes {', '.join(self._types)} instead of {', '.join(inputs)}: it is another graph.",
                "Export the graph again.",
            )

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the graph.

        Args:
            inputs: Tensors by name; floating-point ones are brought to the graph's type.

        Raises:
            InputError: A shape outside the exported range.
        """
        if self._expected is not None:
            check_shapes(self._path, self._expected, self._axes, inputs)
        import_onnxruntime()
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        # Kept until the run is over: the values are borrowed, not copied.
        tensors = {
            name: inputs[name].to(device=self.device, dtype=kind).contiguous() for name, kind in self._types.items()
        }
        for name, tensor in tensors.items():
            binding.bind_ortvalue_input(name, OrtValue.from_dlpack(tensor.detach()))
        for name in self.outputs:
            binding.bind_output(name, self.device.type, self.device.index or 0)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        return {name: torch.from_dlpack(value) for name, value in zip(self.outputs, binding.get_outputs(), strict=True)}


def check_shapes(
    path: Path,
    expected: Mapping[str, Sequence[int | str]],
    axes: Mapping[str, Mapping[str, int]],
    inputs: Mapping[str, Tensor],
) -> None:
    """InputError, naming input and axis, where a shape is not one that a graph was exported for."""
    for name, shape in expected.items():
        found = tuple(inputs[name].shape)
        if len(found) != len(shape):
            raise InputError(
                f"{path} takes {name} with {len(shape)} axes, not {len(found)}.", "Export the graph again."
            )
        for size, wanted in zip(found, shape, strict=True):
            low, high, multiple = wanted, wanted, 1
            if isinstance(wanted, str):
                axis = axes[wanted]
                low, high, multiple = axis["minimum"], axis["maximum"], axis["multiple"]
            if not low <= size <= high or size % multiple:  # type: ignore[operator]
                raise InputError(
                    f"{path.name} was exported for {name} of {_describe(shape, axes)}, and got {list(found)}.",
                    "Export it for this shape: ccella export MODEL --to onnx --shape MIN:OPT:MAX",
                )


def _describe(shape: Sequence[int | str], axes: Mapping[str, Mapping[str, int]]) -> str:
    parts = []
    for size in shape:
        axis = axes.get(size) if isinstance(size, str) else None
        parts.append(str(size) if axis is None else f"{axis['minimum']}..{axis['maximum']}")
    return "[" + ", ".join(parts) + "]"


def _open(path: Path, provider: str, device: torch.device) -> Any:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    choice: Any = PROVIDERS[provider]
    if provider != "cpu":
        choice = (choice, {"device_id": device.index or 0})
    try:
        session = runtime.InferenceSession(str(path), options, providers=[choice])
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
    return session

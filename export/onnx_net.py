"""One exported graph, executed by ONNX Runtime with the provider that was asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..imaging.errors import InputError
from .errors import name_allocations
from .onnx_providers import import_onnxruntime, open_session

TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}


class OnnxNet:
    """An exported graph, ready to run.

    Args:
        path: The ONNX file.
        axes: `minimum`, `maximum` and `multiple` of the dynamic axes, by name, as its record has them.
        provider: cpu, cuda or tensorrt.
        inputs: Axes or fixed sizes of each input; nothing is checked against them when None.
        device: Where tensors live.
        options: Of the TensorRT provider, see `onnx_providers.tensorrt_options`.

    Raises:
        InputError: The file is no ONNX graph, or not one of this name, or the provider cannot execute all of it.
        OutOfMemoryError: There is not enough memory for it.
    """

    def __init__(
        self,
        path: Path,
        axes: Mapping[str, Mapping[str, int]],
        *,
        provider: str,
        inputs: Mapping[str, Sequence[int | str]] | None = None,
        device: torch.device | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._axes = axes
        self._expected = inputs
        self.device = torch.device("cpu") if device is None else device
        self._session = open_session(path, provider, self.device, options)
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
            OutOfMemoryError: There is not enough memory for it.
        """
        if self._expected is not None:
            check_shapes(self._path, self._expected, self._axes, inputs)
        with name_allocations(f"ONNX Runtime, executing {self._path.name}"):
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
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

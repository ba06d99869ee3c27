"""One TensorRT engine, executed on the current CUDA stream in memory that PyTorch hands out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..imaging.errors import InputError
from .errors import OutOfMemoryError, name_allocations
from .ranges import Axes, describe_shape, find_misfit
from .records import GraphRecord
from .tensorrt_library import describe_failure, enter_gpu, error_log, import_tensorrt


class TensorRTNet:
    """An engine, ready to run.

    Args:
        plan: The serialised engine.
        record: Of the graph it was built from.
        profile: The range of each axis that it was built for.
        device: The GPU.

    Raises:
        InputError: TensorRT cannot load the plan.
        OutOfMemoryError: The GPU has not enough memory for it.
    """

    def __init__(self, plan: bytes, record: GraphRecord, profile: Axes, device: torch.device) -> None:
        trt = import_tensorrt()
        self._record, self._profile, self._device = record, profile, device
        self._log = error_log(trt)
        self._log.take()
        with enter_gpu(device):
            self._runtime = trt.Runtime(self._log.logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._load_failure()
            # Activations lie in PyTorch's memory, as much as the shapes at hand need: an engine would set memory aside
            # for its largest batch, out of what PyTorch has left.
            self._context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if self._context is None:
                said = self._log.take() or "there is none"
                raise OutOfMemoryError(f"TensorRT, making a context for the {record.graph}: {said}")
        types = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT64: torch.int64,
        }
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._types = {name: types[self._engine.get_tensor_dtype(name)] for name in names}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the engine.

        Args:
            inputs: Tensors by name; floating-point ones are brought to the engine's type.

        Raises:
            InputError: A shape outside the profile.
            OutOfMemoryError: The GPU has not enough memory.
            RuntimeError: The engine failed.
        """
        self._check_shapes(inputs)
        self._log.take()
        with enter_gpu(self._device), name_allocations(f"TensorRT, executing the {self._record.graph}"):
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        context = self._context
        tensors = {
            name: inputs[name].to(device=self._device, dtype=self._types[name]).contiguous()
            for name in self._record.inputs
        }
        for name, tensor in tensors.items():
            self._require(context.set_input_shape(name, tuple(tensor.shape)), f"taking {name} of {list(tensor.shape)}")
        outputs = {}
        for name, kind in self._types.items():
            if name not in tensors:
                shape = tuple(context.get_tensor_shape(name))
                self._require(min(shape) > 0, f"finding the shape of {name}")
                outputs[name] = torch.empty(shape, dtype=kind, device=self._device)
        # Freed when this returns, and handed out again only to later work on this stream.
        size = context.update_device_memory_size_for_shapes()
        scratch = torch.empty(max(1, size), dtype=torch.uint8, device=self._device)
        context.set_device_memory(scratch.data_ptr(), scratch.numel())
        for name, tensor in (tensors | outputs).items():
            self._require(context.set_tensor_address(name, tensor.data_ptr()), f"taking the address of {name}")
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        self._require(context.execute_async_v3(stream), "executing it")
        return outputs

    def _check_shapes(self, inputs: Mapping[str, Tensor]) -> None:
        shapes = {name: tuple(inputs[name].shape) for name in self._record.inputs}
        name = find_misfit(self._record.inputs, self._profile, shapes)
        if name is not None:
            takes = describe_shape(self._record.inputs[name], self._profile)
            raise InputError(
                f"The TensorRT engine of the {self._record.graph} takes {name} of {takes}, and got "
                f"{list(shapes[name])}.",
                "Give a smaller --batch-size if the first size is at fault; else build it for this shape: "
                "ccella export MODEL --to tensorrt --shape MIN:OPT:MAX",
            )

    def _require(self, done: Any, what: str) -> None:
        """Raises what TensorRT said where a call failed; one that says nothing of success returns None."""
        if done is False:
            raise describe_failure(f"TensorRT, with the {self._record.graph}, {what}", self._log.take())

    def _load_failure(self) -> Exception:
        said = self._log.take()
        failure = describe_failure(f"TensorRT, loading the {self._record.graph}", said)
        if isinstance(failure, OutOfMemoryError):
            return failure
        return InputError(
            f"TensorRT cannot load the engine of the {self._record.graph}: {said or 'it does not say why'}.",
            "Build it again: ccella export MODEL --to tensorrt",
        )

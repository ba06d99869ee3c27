"""A stand-in for the package tensorrt, at the boundary to it.

It keeps the ONNX file as the "plan" and executes it with ONNX Runtime on the very addresses that it is given; a graph
in bfloat16, which ONNX Runtime does not compute in on a CPU, is widened to float32 in between.
"""

import ctypes
import types
from enum import IntEnum
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import torch


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT64 = 3


KINDS = {
    DataType.FLOAT: torch.float32, DataType.HALF: torch.float16, DataType.BF16: torch.bfloat16,
    DataType.INT64: torch.int64,
}  # fmt: skip
# By the numbers of onnx.TensorProto.
ONNX_KINDS = {1: DataType.FLOAT, 10: DataType.HALF, 16: DataType.BF16, 7: DataType.INT64}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class Memory:
    def __init__(self, content):
        self.content = content

    def __buffer__(self, flags):
        return memoryview(self.content)

    def __bytes__(self):
        return self.content


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
        self.shapes[name] = (low, best, high)


class Package(types.ModuleType):
    """The module. What was asked of it and how it is to fail stands in its attributes."""

    def __init__(self, version="10.13.0"):
        super().__init__("tensorrt")
        # torch asks whether the package is installed.
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.__version__ = version
        self.ILogger, self.DataType = ILogger, DataType
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = types.SimpleNamespace(TF32="tf32")
        self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user")
        # Profiles of what was built; the GPU (see `enter`) at every call that works on one.
        self.built, self.calls, self.current = [], [], None
        # By method: what it gives instead, and what the logger hears.
        self.failures = {}
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, partial(kind, self))

    def fails(self, method, logger):
        """Whether a method is to fail."""
        self.calls.append((method, self.current))
        if method not in self.failures:
            return False
        for line in self.failures[method]:
            logger.log(ILogger.ERROR, line)
        return True


class OnnxParser:
    def __init__(self, package, network, logger):
        self.network, self.num_errors = network, 0

    def parse_from_file(self, path):
        import onnx

        try:
            onnx.checker.check_model(path)
        except Exception as error:
            self.num_errors, self.error = 1, str(error)
            return False
        self.network.path = path
        return True

    def get_error(self, index):
        return self.error


class Config:
    tf32 = True

    def clear_flag(self, flag):
        assert flag == "tf32"
        self.tf32 = False

    def create_timing_cache(self, content):
        return None if content == b"damaged" else types.SimpleNamespace(content=content)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return types.SimpleNamespace(serialize=lambda: Memory(self.cache.content + b"t"))

    def add_optimization_profile(self, profile):
        self.profile = profile.shapes
        return 0


class Builder:
    def __init__(self, package, logger):
        self.package, self.logger = package, logger

    def create_network(self, flags):
        assert flags == 1 << 1, "strongly typed"
        return types.SimpleNamespace()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if self.package.fails("build", self.logger):
            return None
        assert not config.tf32
        self.package.built.append(config.profile)
        return Memory(Path(network.path).read_bytes())


class Runtime:
    def __init__(self, package, logger):
        self.package, self.logger = package, logger

    def deserialize_cuda_engine(self, content):
        import onnx

        if self.package.fails("deserialize", self.logger):
            return None
        try:
            return Engine(self.package, self.logger, onnx.load_from_string(content))
        except Exception as error:
            self.logger.log(ILogger.ERROR, f"magic tag does not match: {type(error).__name__}")
            return None


class Engine:
    def __init__(self, package, logger, model):
        import onnxruntime

        self.package, self.logger = package, logger
        self.entries = [*model.graph.input, *model.graph.output]
        self.kinds = {entry.name: ONNX_KINDS[entry.type.tensor_type.elem_type] for entry in self.entries}
        self.inputs = [entry.name for entry in model.graph.input]
        self.num_io_tensors = len(self.entries)
        widen(model)
        self.session = onnxruntime.InferenceSession(model.SerializeToString())

    def get_tensor_name(self, index):
        return self.entries[index].name

    def get_tensor_dtype(self, name):
        return self.kinds[name]

    def create_execution_context(self, strategy):
        assert strategy == "user"
        return None if self.package.fails("context", self.logger) else Context(self)


class Context:
    """Executes on raw addresses, as TensorRT does."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.memory = engine, {}, {}, None

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return not self.engine.package.fails("shape", self.engine.logger)

    def _run(self, inputs):
        feeds = {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in inputs}
        feeds = {
            entry.name: feeds[entry.name].astype(np.float16) if entry.type == "tensor(float16)" else feeds[entry.name]
            for entry in self.engine.session.get_inputs()
        }
        names = [entry.name for entry in self.engine.session.get_outputs()]
        return dict(zip(names, self.engine.session.run(None, feeds), strict=True))

    def get_tensor_shape(self, name):
        # TensorRT computes shapes; the stand-in runs the graph on zeros to learn them.
        kinds = self.engine.kinds
        return self._run((each, torch.zeros(self.shapes[each], dtype=KINDS[kinds[each]])) for each in self.shapes)[
            name
        ].shape

    def update_device_memory_size_for_shapes(self):
        return 4096

    def set_device_memory(self, address, size):
        assert address and size >= 4096
        self.memory = address

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return not self.engine.package.fails("address", self.engine.logger)

    def execute_async_v3(self, stream):
        if self.engine.package.fails("execute", self.engine.logger):
            return False
        assert self.memory
        inputs = []
        for name in self.engine.inputs:
            shape, kind = self.shapes[name], KINDS[self.engine.kinds[name]]
            content = bytearray(ctypes.string_at(self.addresses[name], int(np.prod(shape)) * kind.itemsize))
            inputs.append((name, torch.frombuffer(content, dtype=kind).reshape(shape)))
        for name, value in self._run(inputs).items():
            out = torch.from_numpy(np.ascontiguousarray(value)).to(KINDS[self.engine.kinds[name]])
            ctypes.memmove(self.addresses[name], out.data_ptr(), out.numel() * out.element_size())
        return True


def widen(model):
    """Turns every bfloat16 of a graph into float32."""
    import onnx
    from onnx import TensorProto, numpy_helper

    def tensor(value):
        if value.data_type == TensorProto.BFLOAT16:
            array = numpy_helper.to_array(value).astype(np.float32)
            value.CopyFrom(numpy_helper.from_array(array, value.name))

    for value in model.graph.initializer:
        tensor(value)
    for entry in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if entry.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            entry.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor(attribute.t)

"""TensorRT engines: what is asked of the package, what is kept, and when a plan is built again.

The package cannot be installed here, so a stand-in takes its place at the import: it keeps the ONNX file as the "plan"
and executes it with ONNX Runtime on the very addresses that it is given. Nothing else is replaced but the look for a
GPU.
"""

import ctypes
import json
import shutil
import sys
import types
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from ccella.export import tensorrt
from ccella.export.runtimes import choose_runtime
from ccella.imaging.errors import InputError
from ccella.zoo.card import read_card


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT64 = 3


class Parser:
    def __init__(self, network, logger):
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


class Memory:
    def __init__(self, content):
        self.content = content

    def __buffer__(self, flags):
        return memoryview(self.content)

    def __bytes__(self):
        return self.content


class Config:
    def create_timing_cache(self, content):
        self.read = content
        return content

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False

    def get_timing_cache(self):
        return types.SimpleNamespace(serialize=lambda: Memory(self.read + b"t"))

    def add_optimization_profile(self, profile):
        self.profile = profile.shapes


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
        self.shapes[name] = (low, best, high)


class Builder:
    built: ClassVar[list[dict]] = []

    def __init__(self, logger):
        pass

    def create_network(self, flags):
        assert flags == 1 << 1, "strongly typed"
        return types.SimpleNamespace()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        type(self).built.append(config.profile)
        return Memory(Path(network.path).read_bytes())


class Context:
    """Executes on raw addresses, as TensorRT does."""

    def __init__(self, session):
        self.session, self.shapes, self.addresses = session, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def _run(self, feeds):
        return dict(
            zip((entry.name for entry in self.session.get_outputs()), self.session.run(None, feeds), strict=True)
        )

    def get_tensor_shape(self, name):
        # TensorRT computes shapes; the stand-in runs the graph on zeros to learn them.
        feeds = {e.name: np.zeros(self.shapes[e.name], kind(e.type)) for e in self.session.get_inputs()}
        return self._run(feeds)[name].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        feeds = {}
        for entry in self.session.get_inputs():
            shape, dtype = self.shapes[entry.name], np.dtype(kind(entry.type))
            size = int(np.prod(shape)) * dtype.itemsize
            feeds[entry.name] = np.frombuffer(ctypes.string_at(self.addresses[entry.name], size), dtype).reshape(shape)
        for name, value in self._run(feeds).items():
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True


def kind(name):
    return {"tensor(float)": np.float32, "tensor(int64)": np.int64}[name]


class Engine:
    def __init__(self, session):
        self.session = session
        self.entries = [*session.get_inputs(), *session.get_outputs()]
        self.num_io_tensors = len(self.entries)

    def get_tensor_name(self, index):
        return self.entries[index].name

    def get_tensor_dtype(self, name):
        entry = next(entry for entry in self.entries if entry.name == name)
        return DataType.INT64 if entry.type == "tensor(int64)" else DataType.FLOAT

    def create_execution_context(self):
        return Context(self.session)


class TensorRTStandIn:
    """`tensorrt.Runtime`: loads what `Builder` made."""

    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, content):
        import onnxruntime

        try:
            return Engine(onnxruntime.InferenceSession(content))
        except Exception:
            return None


class Logger:
    ERROR = 1

    def __init__(self, level):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.13.0"
    module.Logger, module.Builder, module.OnnxParser, module.Runtime = Logger, Builder, Parser, TensorRTStandIn
    module.DataType = DataType
    module.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    gpu = tensorrt.Gpu(torch.device("cpu"), "NVIDIA Test", "9.0")
    monkeypatch.setattr(tensorrt, "find_gpu", lambda requested: gpu)
    monkeypatch.setattr(Builder, "built", [])
    return module


@pytest.fixture
def model(exported_model, tmp_path):
    shutil.copytree(exported_model, tmp_path / "model")
    return read_card(tmp_path / "model/card.toml")


def open_decoder(card, said=None):
    said = [] if said is None else said
    return choose_runtime("tensorrt", card, graphs=["decoder"], say=said.append)


def test_without_the_package_the_install_line_is_shown(model):
    if "tensorrt" in sys.modules:
        pytest.skip("tensorrt is installed")
    with pytest.raises(InputError, match="needs the package tensorrt") as caught:
        open_decoder(model)
    assert "pip install 'ccella[gpu]'" in caught.value.remedy


def test_engines_compute_what_their_graphs_do(model, stand_in, stages):
    runtime = choose_runtime("tensorrt", model)
    assert runtime.details["provider"] == "TensorRT 10.13.0 on NVIDIA Test"
    z = torch.randn(2, 4, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    expected = stages.autoencoder.decode(z)
    assert torch.allclose(runtime.load(model, "autoencoder").decode(z), expected, atol=1e-4)
    text = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([999, 500, 1])
    for ours, theirs in zip(
        runtime.load(model, "denoiser").ella(text, None, t), stages.denoiser.ella(text, None, t), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_profiles_cover_the_exported_shapes_with_a_small_batch(model, stand_in):
    open_decoder(model)
    assert Builder.built == [{"z": ((1, 4, 2, 2, 2), (1, 4, 4, 4, 2), (16, 4, 6, 4, 2))}]
    decoder = open_decoder(model).load(model, "autoencoder")
    with pytest.raises(InputError, match="was exported for z"):
        decoder.decode(torch.zeros(1, 4, 8, 4, 2))
    with pytest.raises(InputError, match="was exported for z"):
        decoder.decode(torch.zeros(17, 4, 4, 4, 2))


def test_an_engine_is_built_once_and_the_timing_cache_grows(model, stand_in):
    said = []
    open_decoder(model, said)
    open_decoder(model, said)
    assert said == ["Building the TensorRT engine of the decoder: there is none yet."]
    cache = model.directory / "tensorrt/9.0.timing"
    assert cache.read_bytes() == b"t"
    (model.directory / "tensorrt/decoder.fp32.plan").unlink()
    open_decoder(model)
    assert cache.read_bytes() == b"tt"


def test_a_plan_with_another_key_is_built_again(model, stand_in, monkeypatch):
    open_decoder(model)
    plan = model.directory / "tensorrt/decoder.fp32.plan"
    key_file = plan.with_suffix(".json")

    def reason():
        said = []
        # Whatever lies there is never handed to TensorRT.
        open_decoder(model, said).load(model, "autoencoder")
        return said[0].split(": ")[1] if said else None

    assert reason() is None
    stand_in.__version__ = "10.14.0"
    assert reason() == "the one at hand has another tensorrt."
    gpu = tensorrt.Gpu(torch.device("cpu"), "NVIDIA Other", "8.6")
    monkeypatch.setattr(tensorrt, "find_gpu", lambda requested: gpu)
    assert reason() == "the one at hand has another gpu and capability."
    monkeypatch.setattr(tensorrt, "MAX_BATCH", 8)
    assert reason() == "the one at hand has another profile."
    plan.write_bytes(plan.read_bytes()[:-1])
    assert reason() == "decoder.fp32.plan is damaged."
    key_file.write_text("{", encoding="utf-8")
    assert reason() == "decoder.fp32.json is damaged."
    key_file.write_text(json.dumps({"plan_sha256": 1}), encoding="utf-8")
    assert reason() == "decoder.fp32.json is damaged."
    key_file.unlink()
    assert reason() == "there is none yet."
    assert reason() is None
    assert not list(plan.parent.glob(".*"))


def test_what_tensorrt_cannot_build_is_a_sentence(model, stand_in, monkeypatch):
    monkeypatch.setattr(Builder, "build_serialized_network", lambda *arguments: None)
    with pytest.raises(InputError, match="could not build the decoder in fp32"):
        open_decoder(model)
    assert not (model.directory / "tensorrt/decoder.fp32.json").exists()


def test_the_gpu_is_asked_for_by_name():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="does not run on device cpu"):
        tensorrt.find_gpu("cpu")
    with pytest.raises(InputError, match="0 CUDA devices"):
        tensorrt.find_gpu("auto")

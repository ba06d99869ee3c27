"""What ONNX Runtime is asked for on a GPU, and whether it did it; GPU providers themselves cannot be installed here."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ccella.export.onnx_providers import (
    RECORD_NODES,
    check_nodes,
    cuda_options,
    import_onnxruntime,
    provider_list,
    tensorrt_options,
)
from ccella.imaging.errors import InputError

SECOND = torch.device("cuda:1")


def test_the_cuda_provider_computes_fp32_in_fp32_on_the_device_that_was_asked_for():
    assert cuda_options(SECOND) == {"device_id": "1", "use_tf32": "0"}
    assert provider_list("cuda", SECOND) == [("CUDAExecutionProvider", cuda_options(SECOND))]
    assert provider_list("cpu", torch.device("cpu")) == ["CPUExecutionProvider"]


@pytest.mark.parametrize(("precision", "flags"), [("fp32", "00"), ("fp16", "10"), ("bf16", "01")])
def test_the_tensorrt_provider_has_the_whole_range_and_cuda_second(precision, flags):
    inputs = {"z": ("batch", 4, "x"), "t": ("batch",), "fixed": (1, 2)}
    profile = {
        "batch": {"minimum": 1, "optimum": 2, "maximum": 16},
        "x": {"minimum": 2, "optimum": 4, "maximum": 8},
    }
    options = tensorrt_options(SECOND, precision, inputs, profile, Path("model/tensorrt/key"))
    assert options["device_id"] == "1"
    assert options["trt_fp16_enable"] + options["trt_bf16_enable"] == flags
    assert options["trt_profile_min_shapes"] == "z:1x4x2,t:1,fixed:1x2"
    assert options["trt_profile_opt_shapes"] == "z:2x4x4,t:2,fixed:1x2"
    assert options["trt_profile_max_shapes"] == "z:16x4x8,t:16,fixed:1x2"
    for cache in ("engine", "timing"):
        assert options[f"trt_{cache}_cache_enable"] == "1"
        assert options[f"trt_{cache}_cache_path"] == str(Path("model/tensorrt/key"))
    first, second = provider_list("tensorrt", SECOND, options)
    assert first == ("TensorrtExecutionProvider", options)
    assert second == ("CUDAExecutionProvider", cuda_options(SECOND))


@dataclass
class Node:
    op_type: str


@dataclass
class Group:
    ep_name: str
    names: str

    def get_nodes(self) -> list[Node]:
        return [Node(name) for name in self.names.split()]


class Session:
    def __init__(self, **groups: str) -> None:
        self._groups = [Group(f"{name}ExecutionProvider", names) for name, names in groups.items()]

    def get_provider_graph_assignment_info(self) -> list[Group]:
        return self._groups


def test_arithmetic_on_shapes_may_stay_on_the_cpu():
    check_nodes(Session(CUDA="Conv Mul", CPU="Shape Gather Concat"), "cuda", Path("decoder.onnx"))
    check_nodes(Session(Tensorrt="Conv", CUDA="Reshape"), "tensorrt", Path("decoder.onnx"))


@pytest.mark.parametrize(
    ("groups", "provider", "message"),
    [
        ({"CUDA": "Conv", "CPU": "Shape GroupNormalization"}, "cuda", "GroupNormalization to CPUExecutionProvider"),
        ({"Tensorrt": "Conv", "CUDA": "Resize"}, "tensorrt", "Resize to CUDAExecutionProvider"),
        ({"CPU": "Shape"}, "cuda", "nothing was given to it"),
    ],
)
def test_a_node_elsewhere_is_refused(groups, provider, message):
    with pytest.raises(InputError, match=rf"does not execute all of decoder.onnx: {message}"):
        check_nodes(Session(**groups), provider, Path("decoder.onnx"))


def test_a_version_that_does_not_tell_is_refused():
    with pytest.raises(InputError, match="does not tell which provider executes a node"):
        check_nodes(object(), "cuda", Path("decoder.onnx"))


def test_a_real_session_tells(tmp_path):
    """A graph that was asked of CUDA and that ONNX Runtime gave to the CPU: the real record of its nodes."""
    import onnx
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "g", info[:1], info[1:])
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    runtime = import_onnxruntime()
    settings = runtime.SessionOptions()
    settings.add_session_config_entry(RECORD_NODES, "1")
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    check_nodes(session, "cpu", path)
    with pytest.raises(InputError, match=r"product.onnx: MatMul to CPUExecutionProvider"):
        check_nodes(session, "cuda", path)

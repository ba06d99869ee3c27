"""Memory that ONNX Runtime truly does not get: in processes of their own, with a limit on their address space."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
import numpy, onnx, onnxruntime, torch
from onnx import TensorProto, helper, numpy_helper
from ccella.cli.errors import explain
from ccella.export.onnx_net import OnnxNet

def save(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs], constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)

def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))

path = Path(sys.argv[1]) / "decoder.fp32.onnx"
if sys.argv[2] == "run":
    # The outer product of x with itself: 40 GB.
    axes = [numpy_helper.from_array(numpy.array([i]), f"a{i}") for i in (0, 1)]
    nodes = [helper.make_node("Unsqueeze", ["x", f"a{i}"], [f"x{i}"]) for i in (0, 1)]
    save(path, [*nodes, helper.make_node("Mul", ["x0", "x1"], ["y"])], [("x", TensorProto.FLOAT, ["n"])],
         [("y", TensorProto.FLOAT, ["n", "n"])], axes)
    net = OnnxNet(path, {}, provider="cpu")
    assert net({"x": torch.ones(2)})["y"].tolist() == [[1, 1], [1, 1]]
    compute = lambda: net({"x": torch.ones(100_000)})
    limit(1024)
else:
    weights = numpy_helper.from_array(numpy.ones(30_000_000, numpy.float32), "w")
    save(path, [helper.make_node("Mul", ["x", "w"], ["y"])], [("x", TensorProto.FLOAT, [1])],
         [("y", TensorProto.FLOAT, [30_000_000])], [weights])
    del weights
    compute = lambda: OnnxNet(path, {}, provider="cpu")
    limit(30)
try:
    compute()
except Exception as error:
    failure = explain(error, ["--memory", "--batch-size"])
    print(type(error).__name__, failure.code, failure.sentence, failure.remedy, sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
@pytest.mark.parametrize(("what", "doing"), [("run", "executing"), ("open", "loading")])
def test_a_failed_allocation_ends_with_exit_code_6(what, doing, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), what],
        capture_output=True, encoding="utf-8", check=False, env={"PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    name, code, sentence, remedy = done.stdout.strip().split("|")
    assert (name, code) == ("OutOfMemoryError", "6")
    assert sentence.startswith(f"Out of memory: ONNX Runtime, {doing} decoder.fp32.onnx: ")
    assert remedy == "Use a smaller --batch-size, --runtime torch (which decodes within --memory), or more memory."

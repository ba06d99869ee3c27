"""TensorRT engines: what they compute, for which shapes, on which GPU, and how they fail.

The package cannot be installed here, so a stand-in takes its place at the import (support/tensorrt_stand_in.py).
"""

import sys
from contextlib import nullcontext

import pytest
import torch
from support.tensorrt_models import list_plans, model, open_decoder, package, use_gpu

from ccella.export import tensorrt_engines, tensorrt_library
from ccella.export.devices import choose_precision
from ccella.export.errors import OutOfMemoryError
from ccella.export.parity import ParityError
from ccella.export.runtimes import choose_runtime
from ccella.imaging.errors import InputError

__all__ = ["model", "package"]


def test_without_the_package_the_install_line_is_shown(model):
    if "tensorrt" in sys.modules:
        pytest.skip("tensorrt is installed")
    with pytest.raises(InputError, match="needs the package tensorrt") as caught:
        open_decoder(model)
    assert "pip install 'ccella[gpu]'" in caught.value.remedy


def test_engines_compute_what_their_graphs_do(model, package, stages):
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
    # Each engine takes what is asked of it, and no more: batches of ONNX files go to 64, timesteps to 1000.
    assert {name: sizes for profile in package.built for name, sizes in profile.items() if name != "context"} == {
        "text": ((1, 1, 16), (1, 24, 16), (1, 24, 16)),
        "t": ((1,), (2,), (16,)),
        "z": ((1, 4, 2, 2, 2), (1, 4, 4, 4, 2), (1, 4, 6, 4, 2)),
        "x": ((1, 1, 8, 8, 8), (1, 1, 16, 16, 8), (1, 1, 24, 16, 8)),
        "class_input": ((1, 2), (2, 2), (16, 2)),
        "spacing_mm": ((1, 3), (2, 3), (16, 3)),
    }
    assert next(profile["t"] for profile in package.built if "text" in profile) == ((1,), (3,), (64,))


def test_shapes_outside_the_profile_are_refused_in_terms_of_tensorrt(model, package):
    decoder = open_decoder(model).load(model, "autoencoder")
    with pytest.raises(InputError, match=r"TensorRT engine of the decoder takes z of \[1, 4, 2..6, 2..4, 2\], and got"):
        decoder.decode(torch.zeros(1, 4, 8, 4, 2))


def test_all_work_is_done_on_the_gpu_that_was_asked_for(model, package, monkeypatch):
    open_decoder(model).load(model, "autoencoder").decode(torch.zeros(1, 4, 4, 4, 2))
    methods = {"build", "deserialize", "context", "shape", "address", "execute"}
    assert {method for method, _ in package.calls} == methods
    assert {device for _, device in package.calls} == {torch.device("cpu")}
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    for name in ("cuda:1", "cpu"):
        with tensorrt_library.enter_gpu(torch.device(name)):
            pass
    assert entered == [torch.device("cuda:1")]


@pytest.mark.parametrize("where", ["deserialize", "context", "shape", "address", "execute"])
def test_calls_that_fail_are_said(model, package, where):
    runtime = open_decoder(model)

    def decode():
        runtime.load(model, "autoencoder").decode(torch.zeros(1, 4, 4, 4, 2))

    package.failures[where] = ["Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"]
    with pytest.raises(OutOfMemoryError, match=r"^TensorRT, .* the decoder.*Requested size was 17179869184 bytes"):
        decode()
    package.failures[where] = ["Error Code 1: Myelin (broken)"]
    # A context that cannot be made has no other known cause.
    other = {"deserialize": InputError, "context": OutOfMemoryError}.get(where, RuntimeError)
    with pytest.raises(other, match=r"Myelin \(broken\)") as caught:
        decode()
    assert type(caught.value) is other


def test_memory_that_pytorch_cannot_give_is_out_of_memory(model, package, monkeypatch):
    decoder = open_decoder(model).load(model, "autoencoder")
    z = torch.zeros(1, 4, 4, 4, 2)

    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(OutOfMemoryError, match=r"TensorRT, executing the decoder: CUDA .* Tried to allocate 20.00 GiB"):
        decoder.decode(z)


def test_what_tensorrt_cannot_build_is_a_sentence(model, package):
    package.failures["build"] = ["Could not find any implementation for node Conv_3"]
    with pytest.raises(InputError, match=r"building the decoder: Could not find .* \(fp32 on NVIDIA Test\)"):
        open_decoder(model)
    package.failures["build"] = ["Error Code 1: Cuda Runtime (out of memory)"]
    with pytest.raises(OutOfMemoryError, match="building the decoder"):
        open_decoder(model)
    assert list_plans(model) == []


@pytest.mark.parametrize("change", [1.5, float("nan")])
def test_an_engine_that_disagrees_is_not_kept(model, package, monkeypatch, change):
    intact = tensorrt_engines.load_part

    def load_changed(card, part, **options):
        network = intact(card, part, **options)
        next(network.decoder.parameters()).mul_(change)
        return network

    monkeypatch.setattr(tensorrt_engines, "load_part", load_changed)
    with pytest.raises(ParityError, match=r"The TensorRT engine of the decoder in fp32 .* it was not written"):
        open_decoder(model)
    assert list_plans(model) == [] and not list((model.directory / "tensorrt").glob("*.json"))
    monkeypatch.setattr(tensorrt_engines, "load_part", intact)
    open_decoder(model)
    assert len(list_plans(model)) == 1


def test_engines_are_compared_at_the_corners_of_their_profile():
    profile = {"batch": {"minimum": 1, "optimum": 2, "maximum": 16}, "x": {"minimum": 4, "optimum": 4, "maximum": 8}}
    corners = [{"batch": 1, "x": 4}, {"batch": 2, "x": 4}, {"batch": 16, "x": 8}]
    assert tensorrt_engines.choose_profile_sizes(profile) == corners
    assert tensorrt_engines.choose_profile_sizes({"x": dict.fromkeys(("minimum", "optimum", "maximum"), 3)}) == [
        {"x": 3}
    ]


def test_precisions_that_the_hardware_lacks_are_refused(model, package, monkeypatch):
    use_gpu(monkeypatch, "NVIDIA Old", "7.5")
    with pytest.raises(InputError, match=r"bf16 was asked for on NVIDIA Old, whose compute capability 7.5 lacks it"):
        open_decoder(model, precision="bf16")
    with pytest.raises(InputError, match="fp16 was asked for on the CPU"):
        choose_precision("fp16", torch.device("cpu"))
    assert choose_precision("bf16", torch.device("cpu")) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Old")
    gpu = torch.device("cuda", 1)
    for supported in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: supported)  # noqa: B023
        if supported:
            assert choose_precision("bf16", gpu) == torch.bfloat16
        else:
            with pytest.raises(InputError, match=r"bf16 was asked for on device cuda:1, which .*\(NVIDIA Old\)"):
                choose_precision("bf16", gpu)
        assert choose_precision("fp16", gpu) == torch.float16


def test_the_gpu_is_asked_for_by_name():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="does not run on device cpu"):
        tensorrt_library.find_gpu("cpu")
    with pytest.raises(InputError, match="0 CUDA devices"):
        tensorrt_library.find_gpu("auto")

"""Plans on disk: which are used again, which are built again, and where they lie."""

import errno
import hashlib
import json

import pytest
import torch
from support.tensorrt_models import list_plans, model, open_decoder, package, use_gpu

from ccella.export import tensorrt_build, tensorrt_plans
from ccella.export.largest_tensor import count_largest_tensor
from ccella.export.records import onnx_path
from ccella.imaging.errors import InputError
from ccella.imaging.locks import FileLock
from ccella.zoo.errors import DigestMismatchError
from ccella.zoo.family import load_family

__all__ = ["model", "package"]


def test_an_engine_is_built_once_and_the_timing_cache_grows(model, package):
    said = []
    open_decoder(model, said)
    open_decoder(model, said)
    assert said == [
        "Building the TensorRT engine of the decoder in fp32 for NVIDIA Test: there is none for this key yet."
    ]
    cache = model.directory / "tensorrt/NVIDIA-Test-9.0-10.13.0.timing"
    assert cache.read_bytes() == b"t"
    (plan,) = list_plans(model)
    (model.directory / "tensorrt" / plan).unlink()
    open_decoder(model)
    assert cache.read_bytes() == b"tt"
    cache.write_bytes(b"damaged")
    (model.directory / "tensorrt" / plan).unlink()
    open_decoder(model)
    assert cache.read_bytes() == b"t"


def test_the_record_beside_a_plan_has_its_key_and_what_it_was_compared_with(model, package):
    engine = open_decoder(model).engines["decoder"][1]
    stored = json.loads(engine.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert stored["key"]["onnx"] == {
        "decoder.fp32.onnx": hashlib.sha256(onnx_path(model.directory, "decoder", "fp32").read_bytes()).hexdigest()
    }
    assert (stored["key"]["gpu"], stored["key"]["capability"]) == ("NVIDIA Test", "9.0")
    assert stored["key_sha256"] == engine.key.digest and engine.key.digest[:16] in engine.path.name
    assert stored["plan_sha256"] == hashlib.sha256(engine.path.read_bytes()).hexdigest()
    assert 0 < stored["max_error"] < stored["tolerance"] == 1e-4
    assert [check["sizes"] for check in stored["checks"]] == [
        {"batch": 1, "x": 2, "y": 2, "z": 2},
        {"batch": 1, "x": 4, "y": 4, "z": 2},
        {"batch": 1, "x": 6, "y": 4, "z": 2},
    ]


def test_plans_of_several_keys_lie_side_by_side(model, package, monkeypatch):
    said = []

    def builds():
        said.clear()
        open_decoder(model, said).load(model, "autoencoder")
        return len(said)

    assert builds() == 1
    package.__version__ = "10.14.0"
    assert (builds(), builds()) == (1, 0)
    use_gpu(monkeypatch, "NVIDIA Other", "8.6")
    assert (builds(), builds()) == (1, 0)
    monkeypatch.setattr(tensorrt_build, "RECIPE", 2)
    assert (builds(), builds()) == (1, 0)
    assert len(list_plans(model)) == 4
    # Back on the first machine its plan still lies there.
    monkeypatch.setattr(tensorrt_build, "RECIPE", 1)
    package.__version__ = "10.13.0"
    use_gpu(monkeypatch)
    assert builds() == 0


def test_what_is_damaged_is_built_again(model, package):
    open_decoder(model)
    (name,) = list_plans(model)
    plan = model.directory / "tensorrt" / name
    record = plan.with_suffix(".json")
    content = record.read_text(encoding="utf-8")

    def reason():
        said = []
        open_decoder(model, said).load(model, "autoencoder")
        return said[0].split(": ")[1] if said else None

    assert reason() is None
    plan.write_bytes(plan.read_bytes()[:-1])
    assert reason() == f"{name} is damaged."
    changed = json.loads(content)
    changed["key"]["tensorrt"] = "10.12.0"
    failed = json.loads(content) | {"max_error": 1.0}
    for text in ("{", "[]", json.dumps({"plan_sha256": 1}), json.dumps(changed), json.dumps(failed)):
        record.write_text(text, encoding="utf-8")
        assert reason() == f"{record.name} is damaged."
    record.unlink()
    assert reason() == "there is none for this key yet."
    plan.unlink()
    assert reason() == "there is none for this key yet."
    assert reason() is None
    assert not list(plan.parent.glob(".*"))


def test_what_is_loaded_is_what_was_checked(model, package):
    runtime = open_decoder(model)
    plan = runtime.engines["decoder"][1].path
    plan.write_bytes(onnx_path(model.directory, "encoder", "fp32").read_bytes())
    with pytest.raises(DigestMismatchError, match="it was changed meanwhile"):
        runtime.load(model, "autoencoder")


def test_a_graph_that_changes_while_it_is_built_is_not_kept(model, package, monkeypatch):
    path, content = onnx_path(model.directory, "decoder", "fp32"), None

    def build(self, network, config):
        nonlocal content
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        return content

    from support import tensorrt_stand_in

    monkeypatch.setattr(tensorrt_stand_in.Builder, "build_serialized_network", build)
    with pytest.raises(InputError, match="was changed while its engine was built"):
        open_decoder(model)
    assert list_plans(model) == []


def test_a_folder_that_cannot_be_written_is_replaced_by_the_cache(model, package, monkeypatch, tmp_path):
    intact = tensorrt_plans._open_lock

    def open_lock(folder):
        if folder.is_relative_to(model.directory):
            raise OSError(errno.EROFS, "Read-only file system", str(folder))
        return intact(folder)

    monkeypatch.setattr(tensorrt_plans, "_open_lock", open_lock)
    said = []
    open_decoder(model, said)
    cache = tmp_path / "cache/ccella/tensorrt"
    assert said[0] == f"{model.directory / 'tensorrt'} cannot be written: the engines go into {cache}."
    assert len(list(cache.glob("decoder.fp32.*.plan"))) == 1 and list_plans(model) == []
    said.clear()
    open_decoder(model, said)
    assert said == []


def test_one_process_builds_at_a_time(model, package):
    folder = model.directory / "tensorrt"
    folder.mkdir()
    other, said = FileLock(folder / "build.lock"), []
    assert other.acquire()

    class Said(list):
        def append(self, sentence):
            super().append(sentence)
            if sentence.startswith("Waiting"):
                other.release()

    said = Said()
    open_decoder(model, said)
    assert said[0] == f"Waiting for another process that builds engines in {folder}."
    assert len(list_plans(model)) == 1


def test_what_another_process_built_meanwhile_is_taken(model, package, monkeypatch):
    open_decoder(model)
    from ccella.export import tensorrt_engines

    intact, calls = tensorrt_engines.find_engine, []

    def find(*arguments):
        calls.append(arguments)
        return intact(*arguments) if len(calls) > 1 else (None, "there is none for this key yet")

    monkeypatch.setattr(tensorrt_engines, "find_engine", find)
    open_decoder(model)
    assert len(package.built) == 1 and len(calls) == 2


def test_tensors_that_tensorrt_cannot_count_are_not_asked_of_it(model, package, monkeypatch, stages):
    graph = next(each for each in load_family(model.family).graphs(model) if each.name == "decoder")
    sizes = {"batch": 1, "x": 6, "y": 4, "z": 2}
    largest, hooks = 0, []

    def look(module, inputs, output):
        nonlocal largest
        largest = max(largest, *(t.numel() for t in (*inputs, output) if isinstance(t, torch.Tensor)))

    for module in stages.autoencoder.decoder.modules():
        hooks.append(module.register_forward_hook(look))
    stages.autoencoder.decoder(torch.zeros(1, 4, 6, 4, 2))
    for hook in hooks:
        hook.remove()
    counted = count_largest_tensor(model, graph, sizes)
    # Between two modules there may be a larger one, such as what is normalised in pieces.
    assert largest <= counted <= 8 * largest
    assert count_largest_tensor(model, graph, sizes | {"batch": 2}) == 2 * counted
    monkeypatch.setattr(tensorrt_build, "MAX_ELEMENTS", counted - 1)
    with pytest.raises(InputError, match=f"The decoder at its largest shape has a tensor of {counted:,} elements"):
        open_decoder(model)
    assert package.built == []
    monkeypatch.setattr(tensorrt_build, "MAX_ELEMENTS", counted)
    open_decoder(model)

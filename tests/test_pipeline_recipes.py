"""Sampling again from a sidecar."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ccella.imaging.errors import InputError
from ccella.pipeline.provenance import check_same_model
from ccella.pipeline.recipes import from_sidecar
from ccella.pipeline.run_settings import runtime_setting


def test_a_sidecar_samples_its_volume_again(stages, five, tmp_path):
    out = five
    for name in "ce":
        recipe = from_sidecar(out / name / f"{name}_hbv.json")
        check_same_model(recipe.model, stages.card, source="c_hbv.json")
        settings = recipe.settings(stages.card)
        stages.sample([recipe.item], tmp_path / name, steps=settings.steps)
        assert (tmp_path / f"{name}/{name}/{name}_hbv.nii.gz").read_bytes() == (
            out / f"{name}/{name}_hbv.nii.gz"
        ).read_bytes()
        assert (tmp_path / f"{name}/{name}/{name}_hbv.json").read_bytes() == (
            out / f"{name}/{name}_hbv.json"
        ).read_bytes()


def test_a_sidecar_says_which_timesteps_were_guided(stages, five, tmp_path):
    """Also beside a card that has changed since."""
    card = stages.card.with_generation(
        sampler=replace(stages.card.sampler, guidance_scale=2.0, guidance_interval=(400, 999))
    )

    def guided(interval, scale=2.0):
        sidecar = json.loads((five / "c/c_hbv.json").read_text())
        sampler = sidecar["sampler"] | {"guidance_scale": scale, "guidance_interval": interval}
        return from_sidecar(write_sidecar(five, tmp_path, sampler=sampler)).settings(card).guidance_interval

    assert guided([0, 300]) == (0, 300)
    assert guided(None) is None
    assert guided(None, 1.0) is None


def test_a_sidecar_of_other_weights_or_of_nothing_is_refused(stages, five, tmp_path):
    out = five
    recipe = from_sidecar(out / "a/a_t2w.json")
    changed = {**recipe.model, "files": {**recipe.model["files"], "denoiser/denoiser.safetensors": "0" * 64}}
    with pytest.raises(InputError, match=r"whose denoiser/denoiser.safetensors is not that"):
        check_same_model(changed, stages.card, source="a_t2w.json")
    check_same_model(changed, stages.card, source="a_t2w.json", part="autoencoder")
    with pytest.raises(InputError, match="does not exist"):
        from_sidecar(tmp_path / "none.json")
    with pytest.raises(InputError, match="is not a ccella record"):
        from_sidecar(out / "run.json")


def write_sidecar(five, tmp_path, **changes):
    """A sidecar like that of a volume, with some entries changed."""
    data = json.loads((five / "c/c_hbv.json").read_text(encoding="utf-8")) | changes
    path = tmp_path / "c/c_hbv.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_provider_and_graphs_of_a_sidecar_are_kept(five, tmp_path):
    entry = {"runtime": "onnx", "provider": "CUDAExecutionProvider 1.31.1", "graphs": {"decoder": "a" * 64}}
    recipe = from_sidecar(write_sidecar(five, tmp_path, **entry))
    assert recipe.request_runtime("auto") == recipe.request_runtime("cuda:1") == "onnx:cuda"
    # A machine without a GPU can make it again, and says with what.
    assert recipe.request_runtime("cpu") == "onnx"
    same = SimpleNamespace(details={"provider": entry["provider"], "graphs": entry["graphs"]})
    assert recipe.compare_runtime(same) is None
    other = SimpleNamespace(details={**same.details, "provider": "CPUExecutionProvider 1.31.1"})
    assert recipe.compare_runtime(other) == (
        "c was made with CUDAExecutionProvider 1.31.1, and is made again with CPUExecutionProvider 1.31.1: digits may "
        "differ."
    )
    anew = SimpleNamespace(details={**same.details, "graphs": {"decoder": "b" * 64}})
    with pytest.raises(InputError, match=f"c was made with another export of the decoder: its SHA-256 is {'b' * 64}"):
        recipe.compare_runtime(anew)


def test_the_runtime_of_a_sidecar(five, tmp_path):
    assert from_sidecar(five / "c/c_hbv.json").request_runtime("cpu") == "torch"
    tensorrt = {"runtime": "tensorrt", "provider": "TensorRT 10.13.0 on NVIDIA Test", "graphs": {}}
    assert from_sidecar(write_sidecar(five, tmp_path, **tensorrt)).request_runtime("auto") == "tensorrt"
    old = from_sidecar(write_sidecar(five, tmp_path, runtime="onnx"))
    assert old.request_runtime("auto") == "onnx"
    assert old.compare_runtime(SimpleNamespace(details={"provider": "x", "graphs": {"decoder": "b"}})) is None
    with pytest.raises(InputError, match="its provider or graphs are damaged"):
        from_sidecar(write_sidecar(five, tmp_path, runtime="onnx", graphs=["decoder"]))


def test_what_a_resumed_run_has_in_common_with_the_first():
    graphs = {"decoder": "a" * 64}
    runtime = SimpleNamespace(name="onnx", details={"provider": "CPUExecutionProvider 1.31.1", "graphs": graphs})
    assert runtime_setting(runtime) == {
        "runtime": "onnx",
        "runtime_provider": "CPUExecutionProvider",
        "runtime_graphs": graphs,
    }
    assert runtime_setting(SimpleNamespace(name="torch", details={})) == {}

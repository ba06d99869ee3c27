"""`ccella export --to tensorrt`, and `ccella sample --runtime tensorrt` on what it made."""

import json

import pytest
import torch
from support.tensorrt_models import list_plans, model, package

from ccella.cli.main import run
from ccella.diffusion.noise import draw_noise
from ccella.export import onnx_export, tensorrt_engines
from ccella.export.runtimes import choose_runtime
from ccella.imaging.errors import InputError
from ccella.zoo.card import read_card
from ccella.zoo.families.ccella.graphs import CompiledAutoencoder, CompiledDenoiser
from ccella.zoo.family import load_family

__all__ = ["model", "package"]
SHAPES = "--shape=8,8,8:16,16,8:24,16,8"


def export(folder, *words):
    return run(["export", str(folder), "--to", "tensorrt", SHAPES, *words])


def test_the_command_builds_once_and_says_what_it_compared(model, package, capsys):
    words = ("--part", "decoder,encoder", "--json")
    assert export(model.directory, *words) == 0
    first = capsys.readouterr()
    rows = [json.loads(line) for line in first.out.splitlines()]
    assert [row["part"] for row in rows] == ["decoder", "encoder"]
    assert "Exporting" not in first.err, "the ONNX files are there already"
    for row in rows:
        stored = json.loads((model.directory / row["path"]).with_suffix(".json").read_text(encoding="utf-8"))
        assert stored["plan_sha256"] == row["sha256"] and stored["key_sha256"] == row["key_sha256"]
        assert 0 < row["max_error"] == stored["max_error"] < row["tolerance"] == 1e-4
        assert (row["precision"], row["gpu"]) == ("fp32", "NVIDIA Test")
    assert export(model.directory, *words) == 0
    again = capsys.readouterr()
    assert again.out == first.out and len(package.built) == 2
    # Another shape is another graph, and another engine.
    assert run(["export", str(model.directory), "--to", "tensorrt", "--part", "decoder", "--shape", "16,16,8"]) == 0
    shown = capsys.readouterr()
    assert "Exporting the decoder to ONNX" in shown.err and "decoder" in shown.out
    assert len(list_plans(model)) == 3


def test_an_engine_in_bf16_needs_no_onnx_runtime(tiny_model, package, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise AssertionError("ONNX Runtime was asked for")

    for name in ("import_onnxruntime", "choose_onnx_device", "choose_provider", "OnnxNet"):
        monkeypatch.setattr(onnx_export, name, refuse)
    out = tmp_path / "model"
    assert export(tiny_model, "--part", "decoder", "--precision", "bf16", "--json", "-o", str(out)) == 0
    row = json.loads(capsys.readouterr().out)
    # bfloat16 rounds to 8 bits: far from fp32, and still the same network.
    assert 1e-4 < row["max_error"] < row["tolerance"] == 1e-1
    record = json.loads((out / "onnx/decoder.bf16.json").read_text(encoding="utf-8"))
    assert record["max_error"] is None and record["checks"] == [] and "onnxruntime" not in record["versions"]
    card = read_card(out / "card.toml")
    assert choose_runtime("tensorrt", card, graphs=["decoder"]).precision == "bf16"
    from ccella.export.onnx_runtime import find_exported

    with pytest.raises(InputError, match=r"decoder.bf16.onnx was made for TensorRT and not compared") as caught:
        find_exported(card, ["decoder"], "auto")
    assert "--to onnx --part decoder --precision bf16" in caught.value.remedy


def test_failures_have_the_exit_codes_of_their_kind(model, package, monkeypatch, capsys):
    intact = tensorrt_engines.load_part

    def load_changed(card, part, **options):
        network = intact(card, part, **options)
        next(network.decoder.parameters()).mul_(1.5)
        return network

    monkeypatch.setattr(tensorrt_engines, "load_part", load_changed)
    assert export(model.directory, "--part", "decoder", "-q") == 1
    shown = capsys.readouterr()
    assert "differs from PyTorch" in shown.err and not shown.out.strip().endswith(".plan")
    package.failures["context"] = ["Error Code 2: OutOfMemory"]
    assert export(model.directory, "--part", "decoder", "-q") == 6
    assert "a smaller --shape" in capsys.readouterr().err
    assert list_plans(model) == []
    outside = ["export", str(model.directory), "--to", "tensorrt", "--shape", "8,8,8"]
    for target in ("tensorrt", "onnx"):
        outside[3] = target
        assert run(outside) == 2
        assert "The shapes leave out 16,16,8, the only one" in capsys.readouterr().err


def test_without_the_package_nothing_is_made(tiny_model, tmp_path, capsys):
    assert export(tiny_model, "-q", "-o", str(tmp_path / "m")) == 2
    assert "pip install 'ccella[gpu]'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_sampling_with_engines_gives_the_images_of_torch(model, package, tmp_path, largest_difference, capsys):
    prompt = tmp_path / "report.txt"
    prompt.write_text("Lesion left peripheral zone, PIRADS 5", encoding="utf-8")
    for runtime in ("torch", "tensorrt"):
        words = ["sample", "--prompt", str(prompt), "--model", str(model.directory), "--runtime", runtime]
        device = ["--device", "cpu"] if runtime == "torch" else []
        assert run([*words, *device, "-o", str(tmp_path / runtime)]) == 0
    assert "Executing with tensorrt (TensorRT 10.13.0 on NVIDIA Test)" in capsys.readouterr().err
    assert 0 < largest_difference(tmp_path / "torch", tmp_path / "tensorrt") < 1e-3
    # Two branches of guidance: nine items are eighteen.
    words = [*words, "--overwrite", "-o", str(tmp_path / "nine"), "--batch-size", "9"]
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert (
        "--batch-size 9 takes the denoiser in batches of 18. The TensorRT engine of the denoiser takes 1..16" in shown
    )
    assert "Use --batch-size 8 or less." in shown
    assert not (tmp_path / "nine").exists()
    package.failures["execute"] = ["Error Code 1: Cuda Runtime (out of memory)"]
    assert run([*words[:-1], "8", "--overwrite", "-o", str(tmp_path / "full")]) == 6
    assert "a smaller --batch-size" in capsys.readouterr().err


def test_an_export_that_leaves_the_models_shape_out_is_refused_before_the_run(exported_model, model, tmp_path, capsys):
    record = model.directory / "onnx/decoder.fp32.json"
    stored = json.loads(record.read_text(encoding="utf-8"))
    stored["axes"]["x"] |= {"minimum": 5, "optimum": 5}
    record.write_text(json.dumps(stored), encoding="utf-8")
    prompt = tmp_path / "report.txt"
    prompt.write_text("Prostate normal", encoding="utf-8")
    words = ["sample", "--prompt", str(prompt), "--model", str(model.directory), "--runtime", "onnx", "--device", "cpu"]
    assert run([*words, "-o", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "decoder.fp32.onnx takes x of 5..6, and the model asks for 4." in shown
    assert "--to onnx --part decoder" in shown and not (tmp_path / "out").exists()


def test_what_engines_are_made_for_is_what_the_stages_ask_for(stages):
    """The sizes of `asked_sizes` and `asked_maxima`, against calls of a batch with more timesteps than one window."""
    card, asked = stages.card, {}
    family = load_family(card.family)
    graphs = {graph.name: graph for graph in family.graphs(card)}

    def spy(name, make):
        def call(inputs):
            for row in graphs[name].inputs:
                for axis, size in zip(row.shape, inputs[row.name].shape, strict=True):
                    sizes = asked.setdefault(name, {})
                    sizes[axis] = max(sizes.get(axis, 0), size)
            return make(inputs)

        return call

    nets = {
        "adapter": spy(
            "adapter", lambda i: {"context": torch.zeros(len(i["t"]), 4, 16), "logits": torch.zeros(len(i["t"]), 2)}
        ),
        "denoiser": spy("denoiser", lambda i: {"prediction": i["z"]}),
        "decoder": spy("decoder", lambda i: {"x": torch.zeros(len(i["z"]), 1, 16, 16, 8)}),
        "encoder": spy("encoder", lambda i: {"mean": i["x"], "sigma": i["x"]}),
    }
    denoiser = CompiledDenoiser(stages.denoiser.config, nets, torch.device("cpu"))
    items = [family.Conditions(torch.zeros(5, 16), False, None, (2.0, 2.0, 4.0)) for _ in range(3)]
    plan = family.prepare(
        card, denoiser, items, timesteps=list(range(999, 799, -1)), guidance_scales=[1.5] * 200,
        null_text=torch.zeros(1, 16),
    )  # fmt: skip
    z = torch.stack([draw_noise(seed, card.latent_shape) for seed in range(3)])
    plan.predict(z, 0)
    plan.predict(z, 199)
    autoencoder = CompiledAutoencoder(nets)
    family.decode_latent(card, autoencoder, z)
    family.encode_image(card, autoencoder, torch.zeros(2, 3, 16, 16, 8))
    expected = family.asked_sizes(card, batch_size=3, guidance_scale=1.5)
    for name, sizes in expected.items():
        assert {axis: asked[name][axis] for axis in sizes} == sizes
    assert family.asked_sizes(card, batch_size=3, guidance_scale=1.0)["denoiser"]["batch"] == 3
    assert (
        asked["adapter"]["steps"] == graphs["adapter"].asked_maxima["steps"] < graphs["adapter"].axes["steps"].maximum
    )
    for name in ("decoder", "encoder"):
        assert asked[name]["batch"] == graphs[name].asked_maxima["batch"]

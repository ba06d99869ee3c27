"""Exported graphs compute what PyTorch computes, in every shape they were exported for, and in no other."""

import json
import shutil

import numpy as np
import pytest
import torch

from ccella.cli.main import run
from ccella.export import onnx_export
from ccella.export.onnx_export import choose_graphs, choose_shapes, export_graph
from ccella.export.onnx_net import OnnxNet
from ccella.export.parity import ParityError, draw_inputs
from ccella.export.records import onnx_path, read_record, record_path
from ccella.imaging.errors import InputError
from ccella.zoo.card import read_card
from ccella.zoo.errors import DigestMismatchError


def test_the_files_are_onnx_and_their_records_say_what_was_checked(exported_model):
    import onnx

    card = read_card(exported_model / "card.toml")
    for graph, part in (("adapter", "denoiser"), ("denoiser", "denoiser"), ("decoder", "autoencoder")):
        path, record = read_record(card, graph, part, "fp32")
        onnx.checker.check_model(str(path))
        assert 0 < record.max_error < record.tolerance
        # At the smallest, the best and the largest shape.
        assert len({str(check["sizes"]) for check in record.checks}) == 3
        model = onnx.load(str(path))
        named = {
            dimension.dim_param
            for entry in model.graph.input
            for dimension in entry.type.tensor_type.shape.dim
            if dimension.dim_param
        }
        assert len(named) == {"adapter": 2, "denoiser": 3, "decoder": 3}[graph], "8 on the last axis is fixed"


def test_an_exported_graph_agrees_in_shapes_that_the_export_did_not_try(exported_model):
    import onnxruntime

    card = read_card(exported_model / "card.toml")
    shapes = choose_shapes(card, [(8, 8, 8), (16, 16, 8), (24, 16, 8)])
    for graph in choose_graphs(card, None, shapes):
        sizes = {name: axis.maximum for name, axis in graph.axes.items()} | {"batch": 3, "steps": 5, "tokens": 7}
        inputs = draw_inputs(graph, sizes, train_timesteps=1000, seed=99)
        expected = graph.module(onnx_export.load_part(card, graph.part))(*inputs.values())
        session = onnxruntime.InferenceSession(str(onnx_path(exported_model, graph.name, "fp32")))
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, found, strict=True):
            assert np.abs(ours.detach().numpy() - theirs).max() < 1e-4 * float(ours.abs().max())


def test_random_inputs_are_never_zero_and_lie_where_they_belong(tiny_model):
    card = read_card(tiny_model / "card.toml")
    for graph in choose_graphs(card, None, choose_shapes(card, None)):
        sizes = {name: axis.optimum for name, axis in graph.axes.items()}
        inputs = draw_inputs(graph, sizes, train_timesteps=1000, seed=1)
        assert all(bool(value.any()) for value in inputs.values())
        if "class_input" in inputs:
            assert torch.allclose(inputs["class_input"].sum(-1), torch.full((sizes["batch"],), 100.0))
            assert bool((inputs["spacing_mm"] >= 0.3).all())
        if "t" in inputs:
            assert int(inputs["t"].min()) >= 0 and int(inputs["t"].max()) < 1000


def test_a_graph_that_disagrees_is_not_written(tiny_model, tmp_path, monkeypatch):
    card = read_card(tiny_model / "card.toml")
    (graph,) = choose_graphs(card, ["encoder"], choose_shapes(card, None))
    intact = onnx_export.load_part

    def load_changed(card, part, **options):
        network = intact(card, part, **options)
        if "device" not in options:
            # What is exported; the network it is compared with stays as it is.
            network.encoder.blocks[0].conv.conv.weight.mul_(1.01)
        return network

    monkeypatch.setattr(onnx_export, "load_part", load_changed)
    with pytest.raises(ParityError, match=r"The ONNX encoder in fp32 differs from PyTorch by .* it was not written"):
        export_graph(card, graph, folder=tmp_path, device="cpu")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_is_not_finite_is_not_written_and_leaves_the_earlier_export(exported_model, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(exported_model, folder)
    card = read_card(folder / "card.toml")
    before = {path: path.read_bytes() for path in (folder / "onnx").iterdir()}
    (graph,) = choose_graphs(card, ["encoder"], choose_shapes(card, [(8, 8, 8), (16, 16, 8), (24, 16, 8)]))
    intact, calls = OnnxNet.__call__, []

    def run_with_one_nan(net, inputs):
        outputs = intact(net, inputs)
        calls.append(inputs)
        if len(calls) == 2:
            outputs["mean"][0, 0, 0, 0, 0] = float("nan")
        return outputs

    monkeypatch.setattr(OnnxNet, "__call__", run_with_one_nan)
    with pytest.raises(ParityError, match=r"at batch 1, x 16, .* the mean of one of them is not finite"):
        export_graph(card, graph, device="cpu")
    assert {path: path.read_bytes() for path in (folder / "onnx").iterdir()} == before


def test_records_refuse_what_was_changed(exported_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported_model, folder)
    card = read_card(folder / "card.toml")
    path = onnx_path(folder, "encoder", "fp32")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(DigestMismatchError, match=r"encoder.fp32.onnx has SHA-256 .* damaged or not the one"):
        read_record(card, "encoder", "autoencoder", "fp32")
    path.write_bytes(content)
    record = record_path(folder, "encoder", "fp32")
    stored = json.loads(record.read_text(encoding="utf-8"))
    stored["weights"] = {"autoencoder/autoencoder.safetensors": "0" * 64}
    record.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InputError, match="made from other weights"):
        read_record(card, "encoder", "autoencoder", "fp32")
    record.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="is no record of an exported graph"):
        read_record(card, "encoder", "autoencoder", "fp32")
    record.unlink()
    with pytest.raises(InputError, match="has no ONNX encoder in fp32"):
        read_record(card, "encoder", "autoencoder", "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "decodr"], "has no graph 'decodr'"),
        (["--shape", "12,16,8"], "Shape 12,16,8 does not fit model tiny/random"),
        (["--shape", "16,16,8:8,8,8:24,24,8"], "not in the order"),
        (["--shape", "16,16,8:8,8,8"], "is neither X,Y,Z nor"),
        (["--precision", "bf16"], "checked on a GPU"),
    ],
)
def test_wrong_requests_are_refused(tiny_model, tmp_path, capsys, arguments, message):
    words = ["export", str(tiny_model), "--to", "onnx", "--device", "cpu", "-q", *arguments]
    assert run([*words, "-o", str(tmp_path / "m")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_part_without_weights_is_refused_before_a_folder_is_made(tiny_model, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    next(model.glob("denoiser*.safetensors")).unlink()
    words = ["export", str(model), "--to", "onnx", "--device", "cpu", "--part", "denoiser", "-q"]
    assert run([*words, "-o", str(tmp_path / "m")]) == 3
    assert "denoiser" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_the_installed_model_stays_as_it_is(capsys):
    assert run(["export", "ccella-pp/phantom", "--to", "onnx", "--part", "encoder", "-q"]) == 2
    assert "is part of the installation" in capsys.readouterr().err

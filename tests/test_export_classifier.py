"""A classifier as ONNX gives the probabilities that PyTorch gives, in every shape it was exported for."""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ccella.cli.main import run
from ccella.export.onnx_export import choose_graphs, choose_shapes, load_part
from ccella.export.records import read_record
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.family import load_family
from ccella.zoo.folder import write_model_folder
from ccella.zoo.registry import find_card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier with random weights, exported."""
    folder = tmp_path_factory.mktemp("classifier") / "model"
    document = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": [32, 64, 32]}
    document["parts"]["classifier"]["config"] |= {"width": 0.1, "depth": 0.1, "zero_head": False}
    card = parse_card(document, folder / "card.toml")
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = load_family("classifier").build(card.part("classifier"))
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(value + 0.1 * torch.rand(value.shape, generator=generator))
        assert torch.isfinite(value).all(), name
    write_model_folder(folder, card, parts={"classifier": network.state_dict()})
    shapes = "--shape=32,32,32:32,64,32:64,64,32"
    assert run(["export", str(folder), "--to", "onnx", "--part", "classifier", shapes, "--device", "cpu", "-q"]) == 0
    return folder


def read_model(folder: Path) -> Card:
    return read_card(folder / "card.toml")


def test_the_record_says_what_was_checked(model: Path) -> None:
    path, record = read_record(read_model(model), "classifier", "classifier", "fp32")
    assert path == model / "onnx/classifier.fp32.onnx"
    assert 0 < record.max_error < record.tolerance == 1e-4
    assert list(record.weights) == ["classifier/classifier.safetensors"]
    assert [check["sizes"] for check in record.checks] == [
        {"batch": 2, "x": 32, "y": 32, "z": 32},
        {"batch": 1, "x": 32, "y": 64, "z": 32},
        {"batch": 1, "x": 64, "y": 64, "z": 32},
    ]


def test_the_graph_agrees_in_a_shape_that_the_export_did_not_try(model: Path) -> None:
    import onnxruntime

    card = read_model(model)
    (graph,) = choose_graphs(card, ["classifier"], choose_shapes(card, None))
    x = torch.randn(3, 3, 64, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The part itself, not the form of it that was exported.
        expected = load_part(card, graph.part)(x).numpy()
    session = onnxruntime.InferenceSession(str(model / "onnx/classifier.fp32.onnx"))
    (found,) = session.run(None, {"x": x.numpy()})
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()


def test_classify_gives_the_same_probabilities(model: Path, tiny_exams: Path, tmp_path: Path) -> None:
    found = {}
    for runtime in ("torch", "onnx"):
        out = tmp_path / f"{runtime}.csv"
        arguments = ["--model", str(model), "-o", str(out), "--runtime", runtime, "--device", "cpu", "-q"]
        assert run(["classify", str(tiny_exams), *arguments]) == 0
        with out.open(encoding="utf-8", newline="") as stream:
            found[runtime] = {row["id"]: float(row["probability"]) for row in csv.DictReader(stream)}
    assert found["onnx"] == pytest.approx(found["torch"], abs=1e-5)
    assert len(found["onnx"]) == 3
    sidecar = json.loads((tmp_path / "onnx.json").read_text(encoding="utf-8"))
    assert sidecar["runtime"].startswith("onnx")


def test_a_shape_that_the_network_cannot_halve(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(model), "--to", "onnx", "--shape", "48,64,32", "-q"]) == 2
    assert "Give 3 sizes in voxels, each a multiple of 32." in capsys.readouterr().err
    assert run(["export", str(model), "--to", "onnx", "--part", "decoder", "-q"]) == 2
    assert "has no graph 'decoder'" in capsys.readouterr().err

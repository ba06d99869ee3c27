"""Which runtime a request means, and what comes out of ONNX Runtime."""

import hashlib
import json
import shutil

import pytest
import torch

from ccella.cli.main import run
from ccella.export.onnx_net import OnnxNet
from ccella.export.onnx_providers import choose_provider
from ccella.export.records import onnx_path, read_record, record_path
from ccella.export.runtimes import choose_runtime
from ccella.imaging.errors import InputError
from ccella.zoo.card import read_card
from ccella.zoo.registry import find_card


@pytest.fixture(scope="session")
def card(exported_model):
    return read_card(exported_model / "card.toml")


def test_sampling_with_onnx_gives_the_images_of_torch(exported_model, tmp_path, largest_difference, capsys):
    prompt = tmp_path / "report.txt"
    prompt.write_text("Lesion left peripheral zone, PIRADS 5", encoding="utf-8")
    for runtime in ("torch", "onnx", "auto"):
        words = ["sample", "--prompt", str(prompt), "--model", str(exported_model), "--runtime", runtime]
        assert run([*words, "--device", "cpu", "-o", str(tmp_path / runtime)]) == 0
        said = capsys.readouterr().err
        assert ("Executing with onnx (CPUExecutionProvider" in said) == (runtime == "onnx")
        assert ("Executing with torch on cpu in fp32" in said) == (runtime != "onnx")
    assert 0 < largest_difference(tmp_path / "torch", tmp_path / "onnx") < 1e-3
    assert largest_difference(tmp_path / "torch", tmp_path / "auto") == 0
    sidecar = json.loads((tmp_path / "onnx/report/report_adc.json").read_text(encoding="utf-8"))
    assert sidecar["runtime"] == "onnx"
    digest = hashlib.sha256(onnx_path(exported_model, "decoder", "fp32").read_bytes()).hexdigest()
    assert sidecar["graphs"]["decoder"] == digest
    # The sidecar makes it again with the runtime that it names.
    again = ["sample", "--from", str(tmp_path / "onnx/report/report_adc.json"), "--model", str(exported_model)]
    assert run([*again, "--device", "cpu", "-q", "-o", str(tmp_path / "again")]) == 0
    assert largest_difference(tmp_path / "onnx", tmp_path / "again") == 0
    # A run that was begun with one runtime is not finished with another.
    other = ["sample", "--prompt", str(prompt), "--model", str(exported_model), "--resume", "--runtime", "torch"]
    assert run([*other, "--device", "cpu", "-o", str(tmp_path / "onnx")]) == 2
    assert 'has runtime = "onnx"' in capsys.readouterr().err
    # Nor with a graph that was exported anew since, nor is its volume made again with that.
    path = onnx_path(exported_model, "decoder", "fp32")
    folder = tmp_path / "model"
    shutil.copytree(exported_model, folder)
    replace_graph(folder, "decoder", path.read_bytes() + b"\x1a\x00")
    other = ["sample", "--prompt", str(prompt), "--model", str(folder), "--resume", "--runtime", "onnx"]
    assert run([*other, "--device", "cpu", "-o", str(tmp_path / "onnx")]) == 2
    assert f'has runtime_graphs.decoder = "{digest}"' in capsys.readouterr().err
    again[again.index("--model") + 1] = str(folder)
    assert run([*again, "--device", "cpu", "-q", "-o", str(tmp_path / "changed")]) == 2
    assert "report was made with another export of the decoder" in capsys.readouterr().err


def test_latents_encoded_and_decoded_with_onnx(exported_model, tiny_exams, tmp_path, largest_difference):
    for runtime in ("torch", "onnx"):
        common = ["--model", str(exported_model), "--runtime", runtime, "--device", "cpu", "-q"]
        assert run(["encode", str(tiny_exams), *common, "-o", str(tmp_path / f"z-{runtime}")]) == 0
        assert run(["decode", str(tmp_path / f"z-{runtime}"), *common, "-o", str(tmp_path / runtime)]) == 0
    assert 0 < largest_difference(tmp_path / "torch", tmp_path / "onnx") < 1e-3


@pytest.mark.parametrize("request_", ["onnx:cuda", "onnx:tensorrt"])
def test_a_provider_that_is_not_there_is_refused(card, request_):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="0 CUDA devices"):
        choose_runtime(request_, card)
    with pytest.raises(InputError, match="does not go with device cpu"):
        choose_runtime(request_, card, device="cpu")
    with pytest.raises(InputError, match=r"has no .*ExecutionProvider"):
        choose_provider(request_.partition(":")[2], torch.device("cuda"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onnx", "bf16"), "in bf16"),
        (("onnx", "fp16"), "has no ONNX .* in fp16"),
        (("torch:cpu", "fp32"), "'torch:cpu' is not a runtime"),
        (("fast", "fp32"), "'fast' is not a runtime"),
    ],
)
def test_other_wrong_requests(card, words, message):
    with pytest.raises(InputError, match=message):
        choose_runtime(words[0], card, precision=words[1], device="cpu")


def test_a_model_that_was_not_exported_says_how_to(stages):
    with pytest.raises(InputError, match="has not been exported") as caught:
        choose_runtime("onnx", stages.card, device="cpu")
    assert caught.value.remedy == f"Run: ccella export {stages.card.directory} --to onnx"


def test_shapes_outside_the_exported_range_are_refused(card):
    autoencoder = choose_runtime("onnx", card, device="cpu", graphs=["decoder"]).load(card, "autoencoder")
    assert autoencoder.decode(torch.randn(1, 4, 6, 4, 2)).shape == (1, 1, 24, 16, 8)
    for shape in ((1, 4, 8, 4, 2), (1, 4, 6, 4, 4), (1, 8, 6, 4, 2)):
        with pytest.raises(InputError, match=r"decoder.fp32.onnx was exported for z of \[1..64, 4, 2..6, 2..4, 2..2\]"):
            autoencoder.decode(torch.randn(shape))
    denoiser = choose_runtime("onnx", card, device="cpu", graphs=["denoiser"]).load(card, "denoiser")
    inputs = torch.ones(1, dtype=torch.int64), torch.randn(1, 4, 16), torch.full((1, 2), 50.0), torch.ones(1, 3)
    with pytest.raises(InputError, match=r"and got \[1, 12, 5, 4, 2\]"):
        denoiser.unet(torch.randn(1, 12, 5, 4, 2), *inputs)


def replace_graph(folder, graph, content):
    """Puts other content under a graph's name, with a record that agrees."""
    onnx_path(folder, graph, "fp32").write_bytes(content)
    record = record_path(folder, graph, "fp32")
    stored = json.loads(record.read_text(encoding="utf-8"))
    stored["files"] = {onnx_path(folder, graph, "fp32").name: hashlib.sha256(content).hexdigest()}
    record.write_text(json.dumps(stored), encoding="utf-8")


def test_corrupt_and_foreign_graphs_are_refused(exported_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported_model, folder)
    card = read_card(folder / "card.toml")
    replace_graph(folder, "decoder", b"not a graph at all")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot execute .*decoder.fp32.onnx"):
        choose_runtime("onnx", card, device="cpu", graphs=["decoder"]).load(card, "autoencoder")
    replace_graph(folder, "decoder", onnx_path(folder, "encoder", "fp32").read_bytes())
    with pytest.raises(InputError, match="takes x instead of z: it is another graph"):
        choose_runtime("onnx", card, device="cpu", graphs=["decoder"]).load(card, "autoencoder")


def test_a_damaged_graph_ends_the_command_before_anything_is_written(exported_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(exported_model, folder)
    with onnx_path(folder, "denoiser", "fp32").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0\1\2\3")
    prompt = tmp_path / "r.txt"
    prompt.write_text("Prostate normal", encoding="utf-8")
    words = ["sample", "--prompt", str(prompt), "--model", str(folder), "--runtime", "onnx", "--device", "cpu"]
    assert run([*words, "-o", str(tmp_path / "out")]) == 5
    assert "denoiser.fp32.onnx has SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_net_takes_tensors_of_any_layout_and_type(card):
    path, record = read_record(card, "decoder", "autoencoder", "fp32")
    net = OnnxNet(path, record.axes, provider="cpu", inputs=record.inputs)
    z = torch.randn(1, 4, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    expected = net({"z": z})["x"]
    turned = z.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    assert not turned.is_contiguous()
    assert torch.equal(net({"z": turned})["x"], expected)
    assert torch.allclose(net({"z": z.double()})["x"], expected)


def test_a_model_of_the_installation_is_exported_into_a_copy():
    with pytest.raises(InputError, match="has not been exported") as caught:
        choose_runtime("onnx", find_card("ccella-pp/phantom"), device="cpu")
    command = "ccella export ccella-pp/phantom -o ./ccella-pp-phantom --to onnx"
    assert caught.value.remedy == f"Run: {command}, then give --model ./ccella-pp-phantom"

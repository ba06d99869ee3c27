"""Importing checkpoints: real files of torch, MONAI and pickle; what does not fit is named, what is code never runs."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ccella.cli.main import run
from ccella.imaging.errors import InputError
from ccella.zoo import unpickling
from ccella.zoo.card import read_card
from ccella.zoo.errors import CardError
from ccella.zoo.importing import expected_shapes, import_checkpoint, parse_factors
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card
from ccella.zoo.unpickling import RefusedError, choose_part, find_scale, find_weights, load_checkpoint


@pytest.fixture
def card(tiny_model):
    return read_card(tiny_model / "card.toml")


@pytest.fixture
def weights(tiny_model):
    return {part: load_file(tiny_model / f"{part}.safetensors") for part in ("denoiser", "autoencoder")}


def authors_checkpoint(state):
    """What the authors' training script saves, optimizer and scheduler included, with MONAI's tensor class."""
    from monai.data import MetaTensor

    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], 1e-4)
    parameter.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, 10, power=2.0)
    return {
        "epoch": 7,
        "loss": np.float64(0.25),
        "num_train_timesteps": 1000,
        "scale_factor": MetaTensor(torch.tensor([1.5, 0.5, 2.0]), affine=torch.eye(4), meta={"space": "RAS"}),
        "unet_state_dict": OrderedDict((f"module.{name}", value) for name, value in state.items()),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def test_an_authors_checkpoint_becomes_a_model_that_loads(card, weights, tmp_path):
    source = tmp_path / "epoch7.pt"
    torch.save(authors_checkpoint(weights["denoiser"]), source)
    imported = import_checkpoint(source, card, tmp_path / "mine")
    assert imported.part == "denoiser"
    assert imported.left_out == ("epoch", "loss", "num_train_timesteps", "optimizer", "scheduler")
    assert imported.card.latent.scale == (1.5, 0.5, 2.0)
    loaded = load_part(imported.card, "denoiser").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights["denoiser"].items())
    assert imported.card.provenance["denoiser"]["imported_from"] == "epoch7.pt"
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "card.toml", "denoiser.safetensors", "autoencoder.safetensors", "text_encoder",
    }  # fmt: skip


def test_a_second_import_keeps_the_first(card, weights, tmp_path):
    torch.save(authors_checkpoint(weights["denoiser"]), tmp_path / "d.pt")
    torch.save({name: value + 1 for name, value in weights["autoencoder"].items()}, tmp_path / "a.pth")
    import_checkpoint(tmp_path / "d.pt", card, tmp_path / "mine")
    imported = import_checkpoint(tmp_path / "a.pth", card, tmp_path / "mine")
    assert (imported.part, imported.card.latent.scale) == ("autoencoder", (1.5, 0.5, 2.0))
    found = load_file(tmp_path / "mine/autoencoder.safetensors")
    assert all(torch.equal(found[name], value + 1) for name, value in weights["autoencoder"].items())
    assert load_part(imported.card, "denoiser")
    with pytest.raises(InputError, match="already holds another model"):
        import_checkpoint(tmp_path / "a.pth", find_card("ccella"), tmp_path / "mine")


class Payload:
    """Unpickled without care, this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save_pickle(obj, path):
    path.write_bytes(pickle.dumps(obj))


@pytest.mark.parametrize("save", [torch.save, save_pickle], ids=["torch", "pickle"])
def test_a_pickle_that_holds_code_is_refused_and_never_run(card, weights, tmp_path, save):
    source, witness = tmp_path / "evil.ckpt", tmp_path / "it-ran"
    save({"unet_state_dict": weights["denoiser"], "scale_factor": Payload(witness)}, source)
    with pytest.raises(InputError, match=r"holds code: unpickling it would call posix\.system; nothing of it was run"):
        import_checkpoint(source, card, tmp_path / "mine")
    assert not witness.exists()
    assert not list((tmp_path / "mine").iterdir())
    # The payload is no dud: a reader without an allow-list runs it.
    torch.load(source, weights_only=False) if save is torch.save else pickle.loads(source.read_bytes())
    assert witness.exists()


def test_a_checkpoint_that_unfolds_to_much_more_than_its_size_is_refused(card, weights, tmp_path):
    name = "unet.conv_in.conv.weight"
    vast = torch.zeros(1).expand(2_000_000, 1_000_000)
    torch.save({"scale_factor": 1.0, "unet_state_dict": weights["denoiser"] | {name: vast}}, tmp_path / "vast.pt")
    with pytest.raises(InputError, match=r"1 misshapen: unet.conv_in.conv.weight is \[2000000, 1000000\]"):
        import_checkpoint(tmp_path / "vast.pt", card, tmp_path / "mine")


class Vast:
    """A few bytes of pickle that ask numpy for 80 GB."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (10**10,), "d")


def test_memory_is_limited(tmp_path):
    save_pickle({"a": Vast()}, tmp_path / "bomb.pt")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        request = {"memory_bytes": 100_000_000, "cpu_s": 60, "source": str(tmp_path / "bomb.pt"), "parts": {}}
        os.write(write, unpickling.answer(request).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"asks for more memory than its size explains" in os.read(read, 4096)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.pt", torch.save),
        ("a.pth", lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
        ("a.ckpt", lambda state, path: torch.save({"state_dict": state, "pytorch-lightning_version": "2"}, path)),
        ("a.pkl", save_pickle),
        ("b.pkl", lambda state, path: save_pickle({k: torch.nn.Parameter(v) for k, v in state.items()}, path)),
        ("a.safetensors", save_file),
    ],
)
def test_every_format_gives_the_same_tensors(weights, tmp_path, name, save):
    save(weights["autoencoder"], tmp_path / name)
    found, _ = find_weights(load_checkpoint(tmp_path / name))
    assert found.keys() == weights["autoencoder"].keys()
    assert all(torch.equal(found[key], value) for key, value in weights["autoencoder"].items())


def test_what_does_not_fit_is_named_up_to_ten(card, weights):
    shapes = {"denoiser": expected_shapes(card, "denoiser")}
    state = dict(weights["denoiser"])
    lost = sorted(name for name in state if name.startswith("unet.down_blocks"))[:12]
    for name in lost:
        del state[name]
    state["unet.extra"] = torch.zeros(1)
    state["classifier.weight"] = torch.zeros(2, 2)
    with pytest.raises(RefusedError) as caught:
        choose_part(state, shapes)
    message = str(caught.value.args[0])
    assert (
        f"12 missing: {', '.join(lost[:10])} and 2 more; 1 extra: unet.extra; 1 misshapen: classifier.weight is [2, 2]"
        in message
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list, not a dict"),
        ({}, "its state dict is empty"),
        ({"a": 1}, "'a' of the checkpoint is a int, not a tensor"),
        ({"state_dict": {"a": "b"}}, "'a' of state_dict is a str"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, sentence):
    with pytest.raises(RefusedError, match=sentence):
        find_weights(content)


def test_strangers_are_refused(tmp_path):
    with pytest.raises(RefusedError, match="none of its 1 names"):
        choose_part({"conv1.weight": torch.zeros(1)}, {"denoiser": {"unet.a": [1]}})
    for name, content in (("a.pt", b"not a pickle"), ("b.pt", b"\x80\x04cut"), ("c.pt", b"PK\x03\x04"), ("d.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RefusedError, match=r"no checkpoint|cannot be read"):
            load_checkpoint(tmp_path / name)


def test_the_scale_is_read_in_every_form():
    from monai.data import MetaTensor

    assert find_scale({"scale_factor": 1.5}) == [1.5]
    assert find_scale({"scale_factor": torch.tensor(1.5)}) == [1.5]
    assert find_scale({"scale_factor": [1, 2, 3]}) == [1.0, 2.0, 3.0]
    assert find_scale({"scale_factor": MetaTensor(torch.tensor([[1.0], [2.0]]))}) == [1.0, 2.0]
    assert find_scale({}) is None
    with pytest.raises(RefusedError, match="no number"):
        find_scale({"scale_factor": "large"})
    assert parse_factors("1.05,2") == (1.05, 2.0)
    with pytest.raises(InputError, match="not a list of positive"):
        parse_factors("1,0")


@pytest.mark.parametrize(
    ("extra", "options", "sentence"),
    [
        ({}, {}, "has no scale_factor"),
        ({"scale_factor": [1.0, 2.0]}, {}, r"\[1.0, 2.0\] is not 1 or 3 positive"),
        ({"scale_factor": 1.0, "num_train_timesteps": 500}, {}, "trained with 500 timesteps"),
        ({"scale_factor": 1.0}, {"part": "autoencoder"}, "none of its"),
    ],
)
def test_a_denoiser_that_could_not_be_sampled_is_refused(card, weights, tmp_path, extra, options, sentence):
    torch.save({"unet_state_dict": weights["denoiser"], **extra}, tmp_path / "d.pt")
    with pytest.raises(InputError, match=sentence):
        import_checkpoint(tmp_path / "d.pt", card, tmp_path / "mine", **options)
    assert not (tmp_path / "mine/card.toml").exists()


def test_one_factor_stands_for_every_sequence_and_can_be_given(card, weights, tmp_path):
    torch.save(weights["denoiser"], tmp_path / "d.pt")
    imported = import_checkpoint(tmp_path / "d.pt", card, tmp_path / "mine", scale=(1.25,))
    assert imported.card.latent.scale == (1.25, 1.25, 1.25)


def test_weights_that_are_no_numbers_and_unknown_parts_are_refused(card, weights, tmp_path):
    torch.save(weights["autoencoder"] | {"quant_conv_mu.conv.bias": torch.full((4,), torch.nan)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"quant_conv_mu\.conv\.bias holds values that are not finite"):
        import_checkpoint(tmp_path / "a.pt", card, tmp_path / "mine")
    with pytest.raises(CardError, match="no part"):
        import_checkpoint(tmp_path / "a.pt", card, tmp_path / "mine", part="decoder")
    with pytest.raises(InputError, match="does not exist"):
        import_checkpoint(tmp_path / "none.pt", card, tmp_path / "mine")


def test_tensors_that_share_memory_are_parted(weights, tmp_path):
    """A model saved out of one flat buffer, as sharded training leaves it, and a tied weight."""
    flat = torch.arange(12.0)
    state = {"a": flat[:6].view(2, 3), "b": flat[6:], "c": flat[6:], "d": torch.arange(6.0).view(2, 3).T}
    torch.save(state, tmp_path / "flat.pt")
    save_file(unpickling._separate(load_checkpoint(tmp_path / "flat.pt")), tmp_path / "parted.safetensors")
    found = load_file(tmp_path / "parted.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_the_command_imports_and_says_what_it_left_out(card, weights, tmp_path, capsys):
    torch.save(authors_checkpoint(weights["denoiser"]), tmp_path / "d.pt")
    out, model = tmp_path / "mine", str(card.directory)
    assert run(["zoo", "import", str(tmp_path / "d.pt"), "--as", model, "-o", str(out), "--json"]) == 0
    printed, said = capsys.readouterr()
    assert json.loads(printed) | {"part": "denoiser", "path": out.as_posix()} == json.loads(printed)
    assert "Left out of d.pt: epoch, loss, num_train_timesteps, optimizer, scheduler." in said
    assert "[licence]" in said
    assert run(["zoo", "import", str(tmp_path / "none.pt"), "--as", model, "-o", str(out)]) == 2
    assert run(["zoo", "import", str(tmp_path / "d.pt"), "--as", model, "-o", str(out), "--scale-factor", "x"]) == 2


@pytest.mark.parametrize("model", ["ccella", "ccella-pp", "ccella-pp/phantom"])
def test_shapes_are_found_without_memory_for_every_card(model):
    """The published names and shapes are pinned in test_zoo_ccella_denoiser; here they cost nothing to know."""
    shapes = expected_shapes(find_card(model), "denoiser")
    assert shapes["classifier.weight"][0] == 2
    assert expected_shapes(find_card(model), "autoencoder")["quant_conv_mu.conv.bias"]

"""Model folders: written, read back, checked against their pins. Real files, real safetensors."""

import pytest
import torch

from ccella.zoo.card import UNPINNED
from ccella.zoo.errors import CardError, DigestMismatchError, WeightsMissingError
from ccella.zoo.family import family_names, load_family
from ccella.zoo.folder import write_model_folder
from ccella.zoo.loading import HASH_LIMIT_BYTES, load_part, part_digests, part_paths, sha256_file
from ccella.zoo.registry import find_card

TINY = {
    "channels": [4, 4, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4, "latent_channels": 2,
    "transposed_upsampling": False, "start": "random", "cosine_axis_weights": None,
}  # fmt: skip
SHAPE = {"latent": {"channels": 6, "channels_per_image_channel": 2}, "parts": {"autoencoder": {"config": TINY}}}


@pytest.fixture
def weights():
    card = find_card("ccella-pp")
    config = {key: value for key, value in TINY.items() if value is not None}
    part = type(card.part("autoencoder"))("autoencoder", "maisi_autoencoder", config, (), "")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return load_family("ccella").build(part).state_dict()


@pytest.fixture
def model(tmp_path, weights):
    return write_model_folder(tmp_path / "model", find_card("ccella-pp"), parts={"autoencoder": weights}, updates=SHAPE)


def test_weights_come_back_exactly(model, weights):
    loaded = load_part(model, "autoencoder").state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    assert not any(parameter.requires_grad for parameter in load_part(model, "autoencoder").parameters())


def test_half_precision_weights_are_widened(tmp_path, weights):
    half = {key: value.half() for key, value in weights.items()}
    card = write_model_folder(tmp_path / "half", find_card("ccella-pp"), parts={"autoencoder": half}, updates=SHAPE)
    assert next(load_part(card, "autoencoder").parameters()).dtype == torch.float32


def test_the_card_pins_what_was_written(model):
    (file,) = model.part("autoencoder").files
    path = model.directory / file.path
    assert file.sha256 == sha256_file(path)
    assert file.size == path.stat().st_size
    assert part_digests(model)["autoencoder/autoencoder.safetensors"] == file.sha256


def test_new_weights_do_not_inherit_what_was_measured_with_others(tmp_path, model, weights):
    figures = {"autoencoder_psnr_db": {"t2w": 33.0}, "denoiser_validation": {"loss": 0.1}, "class_head_auc": 1.0}
    measured = {"presets": {"fast": {"measured": {"kid": 0.01}}}, "measured": figures}
    kept = write_model_folder(tmp_path / "kept", model, copy_parts=["autoencoder"], updates=measured)
    assert kept.presets["fast"].measured == {"kid": 0.01}
    assert kept.measured == figures
    new = {"measured": {"autoencoder_psnr_db": {"t2w": 34.0}}}
    trained = write_model_folder(tmp_path / "trained", kept, parts={"autoencoder": weights}, updates=new)
    assert trained.presets["fast"].measured == {}
    assert trained.measured == {"denoiser_validation": {"loss": 0.1}} | new["measured"]
    assert trained.presets["fast"].sampler == kept.presets["fast"].sampler


def test_hub_files_stay_references(model):
    files = model.part("text_encoder").files
    assert files == find_card("ccella-pp").part("text_encoder").files
    assert all(file.repo for file in files)


def test_a_part_without_weights_says_so(model):
    with pytest.raises(WeightsMissingError, match="denoiser") as caught:
        part_paths(model, "denoiser")
    assert "ccella train" in caught.value.remedy


def test_a_hub_file_that_is_not_cached_says_how_to_get_it(model, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsMissingError, match="flan-t5-xxl") as caught:
        part_paths(model, "text_encoder")
    assert caught.value.remedy == f"With network access run: ccella zoo pull {model.directory}"


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_weights_are_never_loaded(model, damage):
    path = model.directory / "autoencoder.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
        with pytest.raises(WeightsMissingError):
            load_part(model, "autoencoder")
        return
    if damage == "flip":
        content[-1] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-10])
    with pytest.raises(DigestMismatchError, match="pins"):
        load_part(model, "autoencoder")


def test_weights_of_another_size_are_refused(tmp_path, weights):
    wrong = SHAPE | {"parts": {"autoencoder": {"config": TINY | {"channels": [4, 4, 16]}}}}
    card = write_model_folder(tmp_path / "wrong", find_card("ccella-pp"), parts={"autoencoder": weights}, updates=wrong)
    with pytest.raises(CardError, match="do not fit"):
        load_part(card, "autoencoder")


def test_unknown_parts_and_families():
    with pytest.raises(CardError, match="has no part"):
        find_card("ccella").part("decoder")
    with pytest.raises(CardError, match="no family"):
        load_family("nothing")
    assert family_names() == ["ccella", "classifier"]


def test_every_bundled_file_is_pinned_and_small():
    """What ships in the repository is pinned, hashed at each load, and 25 MB at most."""
    parts = find_card("ccella-pp/phantom").parts
    assert all(part.files for part in parts.values())
    files = [file for part in parts.values() for file in part.files]
    assert all(file.repo is None and file.sha256 != UNPINNED for file in files)
    assert sum(file.size for file in files) <= 25_000_000 <= HASH_LIMIT_BYTES

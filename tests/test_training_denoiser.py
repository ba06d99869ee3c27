"""Training of a denoiser on small latents, through to a model folder, with every option of the engine."""

import copy
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.small_denoiser import SHAPE, make_task, options, small_card, write_latents

from ccella.imaging.errors import InputError
from ccella.pipeline.sampler_settings import choose_settings
from ccella.training.checkpoints import latest_checkpoint
from ccella.training.denoiser import train_denoiser
from ccella.training.engine import Engine
from ccella.training.interruption import TrainingInterrupted
from ccella.training.latents import latent_items, latent_moments, latent_scale
from ccella.training.recipes import apply_recipe
from ccella.training.splits import split_patients
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.errors import WeightsMissingError
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return small_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents"), SHAPE)


def test_training_ends_in_a_model_folder_that_loads(card: Card, folder: Path, tmp_path: Path) -> None:
    changes = {
        "steps": 40,
        "weights_dtype": "float16",
        "class_weight": 1.0,
        "validate_every": 10,
        "checkpoint_every": 0,
    }
    progress = train_denoiser(card, folder, tmp_path / "out", options(**changes))
    written = read_card(tmp_path / "out" / "card.toml")
    items = latent_items(folder, card.latent_shape)
    training, _ = split_patients(items.patient_ids, 0.3)
    assert written.latent.scale == pytest.approx(latent_scale(latent_moments(items, training), 4))
    stored = load_file(tmp_path / "out" / "denoiser.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    state = load_part(written, "denoiser").state_dict()
    checkpoint = latest_checkpoint(tmp_path / "out/training/denoiser/checkpoints")
    assert checkpoint is not None
    for name, value in checkpoint.tensors("average").items():
        torch.testing.assert_close(state[name.removeprefix("denoiser.")], value, rtol=1e-3, atol=1e-4)
    assert written.measured["denoiser_validation"]["loss"] == pytest.approx(progress.scalars["loss"], abs=1e-4)
    rows = [
        json.loads(line)
        for line in (tmp_path / "out/training/denoiser/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    validation = [row["validation/loss"] for row in rows if "validation/loss" in row]
    assert len(validation) == 4
    assert validation[-1] < validation[0]


def test_a_resumed_run_keeps_its_scale_and_its_bits(card: Card, folder: Path, tmp_path: Path) -> None:
    train_denoiser(card, folder, tmp_path / "whole", options())

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted):
        train_denoiser(card, folder, tmp_path / "parts", options(), log=stop)
    checkpoint = latest_checkpoint(tmp_path / "parts/training/denoiser/checkpoints")
    assert checkpoint is not None
    saved = checkpoint.state()["constants"]["latent_scale"]
    train_denoiser(card, folder, tmp_path / "parts", options(), resume=True)
    one, other = (load_file(tmp_path / name / "denoiser.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert list(read_card(tmp_path / "parts/card.toml").latent.scale or ()) == saved


def test_samples_are_drawn_from_the_same_noise(tiny_model: Path, tmp_path: Path) -> None:
    card = read_card(tiny_model / "card.toml")
    folder = write_latents(tmp_path / "latents", card.latent_shape, card.part("autoencoder").files[0].sha256)
    lines: list[str] = []
    changes = {"samples_every": 2, "sample_items": 1, "sample_steps": 2, "learning_rate": 1e-12}
    train_denoiser(card, folder, tmp_path / "out", options(**changes), log=lines.append)
    mosaics = sorted((tmp_path / "out/training/denoiser/samples").iterdir())
    assert [path.name for path in mosaics] == ["step-00000002.png", "step-00000004.png"]
    assert sum(line.startswith("Samples: ") for line in lines) == 2
    # Next to no learning, the same noise: the same picture.
    one, other = (np.asarray(Image.open(path)).astype(int) for path in mosaics)
    assert one.std() > 10
    assert np.abs(one - other).max() <= 1
    train_denoiser(card, folder, tmp_path / "none", options(**changes, validation_fraction=0.0), log=lines.append)
    assert "There is no validation report to sample from." in lines
    with pytest.raises(WeightsMissingError):
        train_denoiser(find_card("ccella"), folder, tmp_path / "bad", options(**changes))


@pytest.mark.parametrize(
    "recipe", ["ccella-first-head", "ccella-true-class", "ccella-class-only", "ccella-spacing-only"]
)
def test_an_ablation_trains_with_every_option_of_the_engine(folder: Path, tmp_path: Path, recipe: str) -> None:
    card = apply_recipe(small_card(tmp_path), recipe)
    settings = {"recompute_activations": True, "accumulate": 2, "channels_last": True, "precision": "bf16", "steps": 2}
    progress = train_denoiser(card, folder, tmp_path / "out", options(**settings))
    assert progress.scalars["loss"] > 0


def test_recomputed_activations_give_the_same_gradients(card: Card, folder: Path) -> None:
    gradients = []
    for recompute in (False, True):
        engine = Engine(make_task(card, folder), options(recompute_activations=recompute))
        engine.advance()
        gradients.append({name: value.clone() for name, value in engine.weights().items()})
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_a_rectified_flow_trains(folder: Path, tmp_path: Path) -> None:
    document: dict[str, Any] = copy.deepcopy(dict(small_card(tmp_path).document))
    document["schedule"] = {"train_timesteps": 1000, "beta_schedule": "rectified_flow", "prediction": "flow"}
    document["sampler"] = {"name": "euler", "steps": 20}
    flow = parse_card(document, tmp_path / "card.toml")
    settings = {"timestep_density": "logit_normal", "loss_weighting": "min_snr", "steps": 2}
    train_denoiser(flow, folder, tmp_path / "out", options(**settings))
    assert choose_settings(read_card(tmp_path / "out/card.toml")).timesteps[0] == 999
    with pytest.raises(InputError, match="is a rectified flow") as caught:
        choose_settings(flow, sampler="ddim")
    assert caught.value.remedy == "Use euler."


def test_latents_of_another_autoencoder_are_refused(folder: Path, tmp_path: Path) -> None:
    document: dict[str, Any] = copy.deepcopy(dict(small_card(tmp_path).document))
    weights = tmp_path / "autoencoder.safetensors"
    weights.write_bytes(b"other weights")
    row = {"path": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    document["parts"]["autoencoder"]["files"] = [row]
    with pytest.raises(InputError, match=r"another autoencoder/autoencoder\.safetensors \(SHA-256 000000000000"):
        train_denoiser(parse_card(document, tmp_path / "card.toml"), folder, tmp_path / "out", options())
    weights.unlink()
    with pytest.raises(WeightsMissingError, match=r"autoencoder\.safetensors, which does not exist"):
        train_denoiser(parse_card(document, tmp_path / "card.toml"), folder, tmp_path / "out", options())

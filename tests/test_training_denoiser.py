"""Training of a denoiser on small latents, through to a model folder; its draws, losses and validation."""

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ccella.diffusion.losses import denoising_loss, focal_loss
from ccella.imaging.errors import InputError
from ccella.pipeline.sampler_settings import choose_settings
from ccella.training.checkpoints import latest_checkpoint
from ccella.training.config import DenoiserTraining, resolve_options
from ccella.training.denoiser import DenoiserTask, class_auc, train_denoiser
from ccella.training.engine import Engine
from ccella.training.export import initial_network
from ccella.training.interruption import TrainingInterrupted
from ccella.training.latents import latent_items, latent_moments, latent_scale
from ccella.training.recipes import apply_recipe
from ccella.training.splits import split_patients
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.errors import WeightsMissingError
from ccella.zoo.folder import write_card
from ccella.zoo.forward import noise_schedule
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card

SHAPE = (12, 4, 4, 2)
WIDTH = 16


def small_card(path: Path, prediction: str = "v_prediction") -> Card:
    document: dict[str, Any] = copy.deepcopy(dict(find_card("ccella-pp").document))
    document["image"] |= {"shape": [16, 16, 8]}
    document["schedule"]["prediction"] = prediction
    document["latent"].pop("scale", None)
    for part in document["parts"].values():
        part.pop("files", None)
    document["parts"]["denoiser"]["config"]["adapter"] |= {
        "width": 16, "text_width": WIDTH, "latents": 4, "heads": 2, "blocks": 1, "class_hidden": 8, "time_channels": 16,
    }  # fmt: skip
    document["parts"]["denoiser"]["config"]["unet"] |= {
        "channels": [16, 32], "num_res_blocks": [1, 1], "attention_levels": [False, True], "num_head_channels": 8,
        "norm_num_groups": 8,
    }  # fmt: skip
    return parse_card(document, path / "card.toml")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return small_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents"), SHAPE)


def write_latents(out: Path, shape: tuple[int, ...], digest: str = "0" * 64) -> Path:
    """Ten exams: their class is written in the sign of their report and of their latent."""
    (out / "text").mkdir(parents=True)
    lines = []
    for number in range(10):
        generator = torch.Generator().manual_seed(number)
        label, name = number % 2, f"e{number}"
        (out / name).mkdir()
        mean = 2 * torch.randn(shape, generator=generator) + 4 * (2 * label - 1)
        save_file({"mean": mean, "sigma": torch.full(shape, 0.3)}, out / name / f"{name}_latent.safetensors")
        text = torch.full((2 + number % 3, WIDTH), 2.0 * label - 1) if number != 9 else torch.zeros(1, WIDTH)
        save_file({"embedding": text}, out / f"text/{number}.safetensors")
        lines.append(json.dumps({
            "schema": "ccella.record/1", "id": name, "kind": "latent", "path": f"{name}/{name}_latent.safetensors",
            "patient_id": f"p{number}", "text_path": f"text/{number}.safetensors",
            "prompt": None if number == 9 else f"report {number}", "class": None if number == 8 else label,
            "spacing_mm": [1.5, 1.5, 3.0],
            "model": {"id": "x", "files": {"autoencoder/autoencoder.safetensors": digest}},
        }))  # fmt: skip
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def options(**changes: Any) -> DenoiserTraining:
    base = {"steps": 4, "batch_size": 4, "validation_fraction": 0.3, "device": "cpu", "log_every": 1,
            "learning_rate": 3e-3, "checkpoint_every": 2}  # fmt: skip
    return resolve_options(DenoiserTraining, "denoiser", {}, base | changes)


def make_task(card: Card, folder: Path, **changes: Any) -> DenoiserTask:
    chosen = options(**changes)
    items = latent_items(folder, card.latent_shape)
    null = items.null_text()
    assert null is not None
    return DenoiserTask(card, items, initial_network(card, "denoiser", chosen), null, chosen)


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


def test_the_posterior_is_drawn_anew_and_scaled(card: Card, folder: Path) -> None:
    task = make_task(card, folder)
    item = task.items[task.training[0]]
    draws = torch.stack([task.draw(0, torch.Generator().manual_seed(seed))["z"] for seed in range(400)])
    scale = torch.tensor(task.scale).repeat_interleave(4).view(12, 1, 1, 1)
    torch.testing.assert_close(draws.mean(0) / scale, item.mean, atol=0.1, rtol=0)
    assert float((draws.std(0) / scale).mean()) == pytest.approx(0.3, rel=0.05)


def test_dropped_and_missing_reports_are_null_and_out_of_the_class_loss(card: Card, folder: Path) -> None:
    never = make_task(card, folder, condition_dropout=0.0, validation_fraction=0.0)
    always = make_task(card, folder, condition_dropout=1.0, validation_fraction=0.0)
    half = make_task(card, folder, condition_dropout=0.5, validation_fraction=0.0)
    generator = torch.Generator()
    drawn = [never.draw(index, generator.manual_seed(index)) for index in range(10)]
    assert [bool(item["class_counts"]) for item in drawn] == [True] * 8 + [False, False]  # 8 has no class, 9 no report
    assert [len(item["text"]) for item in drawn] == [2, 3, 4, 2, 3, 4, 2, 3, 4, 1]
    dropped = [always.draw(index, generator.manual_seed(index)) for index in range(10)]
    assert not any(bool(item["class_counts"]) for item in dropped)
    assert all(torch.equal(item["text"], always.null_text) for item in dropped)
    count = sum(len(half.draw(0, generator.manual_seed(seed))["text"]) == 1 for seed in range(400))
    assert 160 < count < 240
    assert all(torch.equal(a["z"], b["z"]) and torch.equal(a["t"], b["t"]) for a, b in zip(drawn, dropped, strict=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_cards_schedule(folder: Path, tmp_path: Path, prediction: str) -> None:
    card = small_card(tmp_path, prediction)
    task = make_task(
        card, folder, loss="l1", class_weight=0.5, channel_weights=[1.0, 2.0, 3.0], validation_fraction=0.0
    )
    batch = task.collate([task.draw(index, torch.Generator().manual_seed(index)) for index in (0, 3, 8, 9)])
    task.objective.eval()
    with torch.no_grad():
        loss, scalars = task.objective(batch, 0)
        network: Any = task.objective.denoiser
        schedule = noise_schedule(card)
        a = schedule.alphas_cumprod[batch["t"]].float().view(-1, 1, 1, 1, 1)
        z_t = a.sqrt() * batch["z"] + (1 - a).sqrt() * batch["eps"]
        velocity = a.sqrt() * batch["eps"] - (1 - a).sqrt() * batch["z"]
        target = {"epsilon": batch["eps"], "v_prediction": velocity, "sample": batch["z"]}[prediction]
        output, logits = network(z_t, batch["t"], batch["text"], batch["mask"], batch["spacing_mm"])
    channels = [(output - target)[:, 4 * place : 4 * place + 4].abs().mean() for place in range(3)]
    denoising = (channels[0] + 2 * channels[1] + 3 * channels[2]) / 6
    # Items 8 (no class) and 9 (no report) weigh nothing; the sum is divided by the whole batch.
    focal = focal_loss(logits[:2], torch.eye(2)[batch["class_label"][:2]]) * 2 / 4
    torch.testing.assert_close(loss, denoising + 0.5 * focal, rtol=1e-4, atol=1e-5)
    assert float(scalars["loss_hbv"]) == pytest.approx(float(channels[1]), rel=1e-4)


def test_validation_is_the_same_every_time_and_spreads_its_timesteps(card: Card, folder: Path) -> None:
    task = make_task(card, folder, validation_fraction=0.6)
    device = torch.device("cpu")
    with torch.no_grad():
        first = task.validate(device)
        torch.rand(7)
        assert task.validate(device) == first
    assert set(first) >= {"loss", "loss_t2w", "loss_hbv", "loss_adc"}
    assert first["loss"] == pytest.approx(sum(first[f"loss_{name}"] for name in ("t2w", "hbv", "adc")) / 3)
    batch = [task._fixed(index, slot, 100 * slot) for slot, index in enumerate(task.validation[:2])]
    assert not torch.equal(batch[0]["eps"], batch[1]["eps"])
    smaller = make_task(card, folder, validation_fraction=0.6, batch_size=1)
    with torch.no_grad():
        assert smaller.validate(device) == pytest.approx(first, rel=1e-4)
    assert make_task(card, folder, validation_fraction=0.0).validate(device) == {}


def test_min_snr_weights_change_the_loss_only_where_noise_is_low(card: Card, folder: Path) -> None:
    plain, weighted = make_task(card, folder), make_task(card, folder, loss_weighting="min_snr", class_weight=0.0)
    items = [plain.draw(index, torch.Generator().manual_seed(index)) for index in range(4)]
    for t in (999, 5):
        batch = plain.collate([item | {"t": torch.tensor(t)} for item in items])
        with torch.no_grad():
            loss = float(plain.objective(batch, 0)[1]["denoising"])
            changed = float(weighted.objective(batch, 0)[0])
        snr = float(noise_schedule(card).signal_to_noise(torch.tensor(t)))
        factor = min(snr, 5.0) / (snr + 1)
        assert changed == pytest.approx(factor * loss, rel=1e-3)


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


def command(launcher: list[str], model: Path, folder: Path, out: Path, **changes: Any) -> "subprocess.Popen[str]":
    """`ccella train denoiser` in a process of its own, with the options of these tests."""
    named = {"steps": 4, "batch_size": 4, "device": "cpu"}
    named |= {name: changes.pop(name) for name in list(changes) if name in named}
    chosen = {"validation_fraction": 0.3, "log_every": 1, "learning_rate": 3e-3, "checkpoint_every": 2, **changes}
    words = [
        *launcher,
        "-m",
        "ccella.cli.main",
        "train",
        "denoiser",
        str(folder),
        "--model",
        str(model),
        "-o",
        str(out),
    ]
    words += [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def template(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("template")
    write_card(model / "card.toml", {**card.document, "training": {}})
    return model


def test_accelerate_launches_the_same_run(template: Path, folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
                "--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no"]  # fmt: skip
    process = command(launcher, template, folder, tmp_path / "launched")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.startswith("denoiser")
    train_denoiser(read_card(template / "card.toml"), folder, tmp_path / "plain", options())
    # The launcher's bf16 is not ours: --precision alone decides.
    one, other = (load_file(tmp_path / name / "denoiser.safetensors") for name in ("launched", "plain"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_terminated_command_saves_and_ends_with_130(template: Path, folder: Path, tmp_path: Path) -> None:
    process = command([sys.executable], template, folder, tmp_path / "out", steps=100000)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 130, lines
    checkpoint = latest_checkpoint(tmp_path / "out/training/denoiser/checkpoints")
    assert checkpoint is not None
    assert f"stopped by SIGTERM after step {checkpoint.step}; the state is saved." in "".join(lines[-2:])
    assert "--resume" in lines[-1]


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


def test_weights_per_channel_must_fit(card: Card, folder: Path) -> None:
    with pytest.raises(InputError, match="channel_weights has 2 values"):
        make_task(card, folder, channel_weights=[1.0, 2.0])


def test_the_area_under_the_curve() -> None:
    assert class_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == pytest.approx(0.75)
    assert class_auc([0, -1, 1], [0.1, 0.9, 0.5]) == 1.0
    assert class_auc([1, 1, -1], [0.1, 0.9, 0.5]) is None


def test_denoising_loss_groups_are_the_image_channels() -> None:
    prediction = torch.zeros(1, 12, 2)
    target = torch.cat([torch.full((1, 4, 2), value) for value in (1.0, 2.0, 3.0)], 1)
    assert denoising_loss(prediction, target, kind="l1", groups=3).group.tolist() == [[1.0, 2.0, 3.0]]

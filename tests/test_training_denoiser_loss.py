"""What a denoiser is trained on: its draws, its losses and its validation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_denoiser import SHAPE, make_task, small_card, write_latents

from ccella.diffusion.losses import denoising_loss, focal_loss
from ccella.imaging.errors import InputError
from ccella.training.denoiser import class_auc
from ccella.zoo.card import Card
from ccella.zoo.forward import noise_schedule


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return small_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents"), SHAPE)


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

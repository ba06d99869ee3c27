import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.diffusion.losses import denoising_loss, focal_loss, min_snr_weights
from ccella.diffusion.schedule import NoiseSchedule

NEGATIVE, POSITIVE = [1.0, 0.0], [0.0, 1.0]


def focal(logits, targets, **options):
    return focal_loss(torch.tensor(logits), torch.tensor(targets), **options)


def test_focal_loss_golden_values():
    """By hand, p = 1/2: -alpha_c (1/2)^2 log(1/2) / 2 classes; with logits log 3 apart, p = 3/4 or 1/4."""
    half = math.log(2) / 4 / 2
    assert focal([[0.0, 0.0]], [POSITIVE]).item() == pytest.approx(0.75 * half, rel=1e-6)
    assert focal([[0.0, 0.0]], [NEGATIVE]).item() == pytest.approx(0.25 * half, rel=1e-6)
    assert focal([[0.0, 0.0]] * 2, [POSITIVE, NEGATIVE]).item() == pytest.approx(0.5 * half, rel=1e-6)
    confident = [[0.0, math.log(3)]]
    # 0.75 * (1/4)^2 * log(4/3) / 2 = 0.00674255; 0.25 * (3/4)^2 * log(4) / 2 = 0.09747382
    assert focal(confident, [POSITIVE]).item() == pytest.approx(0.00674255, abs=1e-7)
    assert focal(confident, [NEGATIVE]).item() == pytest.approx(0.09747382, abs=1e-7)


def test_focal_loss_with_gamma_zero_is_weighted_cross_entropy():
    logits = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 2
    ours = focal_loss(logits, torch.nn.functional.one_hot(labels, 2), gamma=0.0, alpha=0.5)
    assert ours.item() == pytest.approx(0.25 * torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_focal_loss_counts_only_masked_items():
    logits, targets = [[0.3, -2.0], [5.0, 1.0], [-1.0, 2.0]], [POSITIVE, NEGATIVE, NEGATIVE]
    masked = focal(logits, targets, mask=torch.tensor([True, False, True]))
    assert masked.item() == pytest.approx(focal(logits[::2], targets[::2]).item(), rel=1e-6)


def test_focal_loss_without_any_counted_item_is_zero_with_zero_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([POSITIVE] * 3), mask=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(3, 2))


@settings(max_examples=50, deadline=None)
@given(st.floats(-80, 80), st.booleans())
def test_focal_loss_and_its_gradient_stay_finite(logit, positive):
    logits = torch.tensor([[0.0, logit]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([POSITIVE if positive else NEGATIVE]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() >= 0
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("targets", [[0.0, 100.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5]])
def test_focal_targets_that_are_not_one_hot_are_refused(targets):
    with pytest.raises(ValueError, match="one-hot"):
        focal([[0.0, 0.0]], [targets])


def test_wrong_focal_arguments_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        focal([[0.0]], [[1.0]])
    with pytest.raises(ValueError, match="alpha 2"):
        focal([[0.0, 0.0]], [POSITIVE], alpha=2.0)
    with pytest.raises(ValueError, match="must be bool"):
        focal([[0.0, 0.0]], [POSITIVE], mask=torch.ones(1))


def test_denoising_loss_golden_values_per_item_and_group():
    # Item 0: differences 1, 1 | -2, -2 ; item 1: 0, 0 | 0, 4.
    prediction = torch.tensor([[[1.0], [1.0], [-2.0], [-2.0]], [[0.0], [0.0], [0.0], [4.0]]])
    target = torch.zeros(2, 4, 1)
    l1 = denoising_loss(prediction, target, kind="l1", groups=2)
    assert l1.group.tolist() == [[1.0, 2.0], [0.0, 2.0]]
    assert l1.item.tolist() == [1.5, 1.0]
    mse = denoising_loss(prediction, target, kind="mse", groups=2)
    assert mse.group.tolist() == [[1.0, 4.0], [0.0, 8.0]]
    assert mse.item.tolist() == [2.5, 4.0]


@pytest.mark.parametrize("kind", ["l1", "mse"])
def test_denoising_loss_mean_is_the_usual_loss(kind):
    prediction, target = torch.randn(2, 3, 12, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    usual = {"l1": torch.nn.functional.l1_loss, "mse": torch.nn.functional.mse_loss}[kind](prediction, target)
    loss = denoising_loss(prediction, target, kind=kind, groups=3)
    assert loss.item.shape == (3,)
    assert loss.group.shape == (3, 3)
    assert loss.item.mean().item() == pytest.approx(usual.item(), rel=1e-5)


def test_wrong_denoising_arguments_are_refused():
    x = torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match="'huber' is unknown"):
        denoising_loss(x, x, kind="huber")
    with pytest.raises(ValueError, match="4 channels do not divide into 3"):
        denoising_loss(x, x, groups=3)
    with pytest.raises(ValueError, match="one shape"):
        denoising_loss(x, torch.zeros(1, 4, 1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weight_makes_every_prediction_weigh_the_clean_latent_alike(prediction):
    """weight * (error of the prediction)^2 = min(SNR, gamma) * (error of the clean latent it implies)^2."""
    schedule = NoiseSchedule(1000, "scaled_linear", 0.0015, 0.0195, prediction)
    t = torch.tensor([0, 50, 300, 700, 999])
    z, eps, error = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    z_t, target = schedule.add_noise(z, eps, t), schedule.target(z, eps, t)
    implied = schedule.to_x0(z_t, target + error, t) - schedule.to_x0(z_t, target, t)
    alphas = schedule.alphas_cumprod[t]
    capped = (alphas / (1 - alphas)).clamp(max=5.0).float()
    weighted = min_snr_weights(schedule, t) * error[:, 0] ** 2
    torch.testing.assert_close(weighted, capped * implied[:, 0] ** 2, rtol=2e-3, atol=1e-6)


def test_min_snr_cap_must_be_positive():
    with pytest.raises(ValueError, match=r"got 0\.0"):
        min_snr_weights(NoiseSchedule(10, "linear", 0.1, 0.2, "epsilon"), torch.tensor([0]), gamma=0.0)

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.diffusion.schedule import PREDICTIONS, NoiseSchedule


def paper_schedule(prediction: str = "epsilon", beta_schedule: str = "scaled_linear") -> NoiseSchedule:
    return NoiseSchedule(1000, beta_schedule, 0.0015, 0.0195, prediction)


def test_scaled_linear_alphas_match_numpy():
    betas = (math.sqrt(0.0015) + np.arange(1000) / 999 * (math.sqrt(0.0195) - math.sqrt(0.0015))) ** 2
    alphas = paper_schedule().alphas_cumprod
    assert alphas.dtype == torch.float64
    np.testing.assert_allclose(alphas.numpy(), np.cumprod(1 - betas), rtol=1e-12)
    assert paper_schedule().betas[0].item() == pytest.approx(0.0015)
    assert paper_schedule().betas[-1].item() == pytest.approx(0.0195)


def test_linear_alphas_match_numpy():
    expected = np.exp(np.cumsum(np.log1p(-(0.0015 + np.arange(1000) / 999 * 0.018))))
    np.testing.assert_allclose(paper_schedule(beta_schedule="linear").alphas_cumprod.numpy(), expected, rtol=1e-12)


def test_cosine_alphas_follow_the_closed_form_until_the_cap():
    alphas = paper_schedule(beta_schedule="cosine").alphas_cumprod.numpy()
    time = np.arange(1, 1001) / 1000
    closed = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alphas[:990], closed[:990], rtol=1e-9)
    assert alphas[-1] == pytest.approx(alphas[-2] * 0.001, rel=1e-9)
    same = paper_schedule(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    np.testing.assert_array_equal(alphas, same.numpy())


def test_golden_value_of_add_noise_and_velocity():
    # a_0 = 1 - 0.0015: sqrt = 0.99924972..., sqrt(0.0015) = 0.03872983...
    schedule = paper_schedule("v_prediction")
    z, eps = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    t = torch.tensor([0])
    assert schedule.add_noise(z, eps, t).item() == pytest.approx(2 * 0.99924972 - 0.03872983, abs=1e-6)
    assert schedule.target(z, eps, t).item() == pytest.approx(-0.99924972 - 2 * 0.03872983, abs=1e-6)


shapes = st.lists(st.integers(1, 3), min_size=0, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    prediction=st.sampled_from(PREDICTIONS),
    beta_schedule=st.sampled_from(["scaled_linear", "linear"]),
    tail=shapes,
    t=st.lists(st.integers(0, 999), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_target_gives_back_clean_latent_and_noise(prediction, beta_schedule, tail, t, seed):
    schedule = paper_schedule(prediction, beta_schedule)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(t), *tail, generator=generator)
    eps = torch.randn(len(t), *tail, generator=generator)
    steps = torch.tensor(t)
    z_t = schedule.add_noise(z, eps, steps)
    target = schedule.target(z, eps, steps)
    # Float32 rounding is divided by sqrt(a_t) >= 0.012 or sqrt(1 - a_t) >= 0.038 where a conversion divides.
    torch.testing.assert_close(schedule.to_x0(z_t, target, steps), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(schedule.to_eps(z_t, target, steps), eps, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(t=st.integers(0, 999), seed=st.integers(0, 1000))
def test_noisy_latent_and_velocity_are_a_rotation(t, seed):
    """(z_t, v) is (z, eps) turned by an angle, so the squared length is kept (Salimans and Ho 2022)."""
    schedule = paper_schedule("v_prediction")
    z, eps = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(seed)).unbind(0)
    step = torch.tensor([t])
    turned = schedule.add_noise(z, eps, step) ** 2 + schedule.target(z, eps, step) ** 2
    torch.testing.assert_close(turned, z**2 + eps**2, rtol=1e-5, atol=1e-5)


def test_each_item_has_its_own_timestep_and_one_may_serve_all():
    schedule = paper_schedule()
    z, eps = torch.ones(2, 3, 2), torch.ones(2, 3, 2)
    both = schedule.add_noise(z, eps, torch.tensor([0, 999]))
    torch.testing.assert_close(both[0], schedule.add_noise(z[:1], eps[:1], torch.tensor([0]))[0])
    torch.testing.assert_close(both[1], schedule.add_noise(z[1:], eps[1:], torch.tensor([999]))[0])
    torch.testing.assert_close(schedule.add_noise(z, eps, torch.tensor(999))[0], both[1])


def test_half_precision_latents_are_computed_in_float32():
    schedule = paper_schedule("v_prediction")
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    result = schedule.add_noise(z, z, torch.tensor([500]))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, schedule.add_noise(z.float(), z.float(), torch.tensor([500])), rtol=0, atol=0)


def test_signal_to_noise_falls_from_its_known_first_value():
    ratio = paper_schedule().signal_to_noise(torch.arange(1000))
    assert ratio[0].item() == pytest.approx((1 - 0.0015) / 0.0015, rel=1e-6)
    assert bool((ratio[1:] < ratio[:-1]).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_timesteps": 0}, "at least one timestep"),
        ({"beta_schedule": "sigmoid"}, "'sigmoid' is unknown"),
        ({"prediction": "noise"}, "'noise' is unknown"),
        ({"beta_start": 0.0}, "got 0.0"),
        ({"beta_end": 0.001}, "got 0.0015 and 0.001"),
    ],
)
def test_wrong_schedules_are_refused(change, message):
    good = {
        "train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "prediction": "epsilon",
    }
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**{**good, **change})


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (torch.tensor([-1, 5]), "got -1 to 5"),
        (torch.tensor([1000, 5]), "got 5 to 1000"),
        (torch.tensor([1.0, 5.0]), "must be integers"),
        (torch.tensor([1, 2, 3]), "2 latents"),
        (torch.tensor([[1, 2]]), "2 latents"),
    ],
)
def test_wrong_timesteps_are_refused(t, message):
    with pytest.raises(ValueError, match=message):
        paper_schedule().add_noise(torch.zeros(2, 3), torch.zeros(2, 3), t)


def test_latents_and_noise_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="do not go with"):
        paper_schedule().add_noise(torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor([1, 2]))

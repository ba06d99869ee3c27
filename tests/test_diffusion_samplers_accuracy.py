"""Samplers against hand-written recursions and closed forms.

The toy: the clean latent is normal with mean MU and standard deviation S, so the best possible network is known in
closed form and linear in z. A deterministic sampler then maps z to A z + B, and starting from standard normal noise
its result has exactly the mean B and the standard deviation A.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ccella.diffusion.noise import ancestral_generator, draw_noise
from ccella.diffusion.samplers import sample
from ccella.diffusion.schedule import PREDICTIONS, NoiseSchedule
from ccella.diffusion.timesteps import timestep_table

MU, S = 0.7, 0.5
IRREGULAR = (990, 871, 500, 333, 90, 7)
DETERMINISTIC = ("ddim", "dpmsolver++", "unipc")


def paper_schedule(prediction="epsilon"):
    return NoiseSchedule(1000, "scaled_linear", 0.0015, 0.0195, prediction)


def levels(schedule, table):
    """Signal and noise factors along the table, followed by the clean end (1, 0); float64."""
    alphas = schedule.alphas_cumprod.numpy()[list(table)]
    return np.append(np.sqrt(alphas), 1.0), np.append(np.sqrt(1 - alphas), 0.0)


def best_x0(z, a, g, mu=MU, s=S):
    """Posterior mean of the clean latent given z = a x0 + g eps."""
    return mu + a * s**2 * (z - a * mu) / (a**2 * s**2 + g**2)


def best_network(schedule, table, mu=MU, s=S):
    a, g = levels(schedule, table)

    def predict(z, i):
        x0 = best_x0(z, a[i], g[i], mu, s)
        eps = (z - a[i] * x0) / g[i]
        return {"epsilon": eps, "sample": x0, "v_prediction": a[i] * eps - g[i] * x0}[schedule.prediction]

    return predict


def moments(sampler, table, schedule=None, mu=MU, s=S):
    """Mean and standard deviation of a deterministic sampler's result on the toy, exact but for float32."""
    schedule = schedule or paper_schedule()
    ends = sample(
        best_network(schedule, table, mu, s),
        torch.tensor([[0.0], [1.0]]),
        schedule=schedule,
        sampler=sampler,
        timesteps=table,
    ).flatten()
    return ends[0].item(), (ends[1] - ends[0]).item()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("table", [IRREGULAR, timestep_table(1000, 30), (500,)])
def test_ddim_equals_hand_written_recursion(prediction, table):
    schedule = paper_schedule(prediction)
    noise = torch.linspace(-3, 3, 50).reshape(2, 25)
    result = sample(best_network(schedule, table), noise, schedule=schedule, sampler="ddim", timesteps=table)
    a, g = levels(schedule, table)
    z = noise.double().numpy()
    for i in range(len(table)):
        x0 = best_x0(z, a[i], g[i])
        z = a[i + 1] * x0 + g[i + 1] * (z - a[i] * x0) / g[i]
    assert result.dtype == torch.float32
    # The first step of "epsilon" divides float32 rounding by a sqrt of alpha as small as 0.012.
    np.testing.assert_allclose(result.numpy(), z, atol=2e-5 if prediction == "epsilon" else 1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("table", [IRREGULAR, timestep_table(1000, 20), timestep_table(1000, 8, "quadratic")])
def test_dpmsolver_equals_hand_written_2m(prediction, table):
    """Lu et al. 2022, algorithm 2, in the form with data prediction and lambda = log(signal / noise)."""
    schedule = paper_schedule(prediction)
    noise = torch.linspace(-3, 3, 50).reshape(2, 25)
    result = sample(best_network(schedule, table), noise, schedule=schedule, sampler="dpmsolver++", timesteps=table)
    a, g = levels(schedule, table)
    lam = np.log(a[:-1] / g[:-1])
    z, previous = noise.double().numpy(), None
    for i in range(len(table)):
        x0 = best_x0(z, a[i], g[i])
        last = i == len(table) - 1
        if previous is None or last:
            mixed = x0
        else:
            ratio = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
            mixed = (1 + 1 / (2 * ratio)) * x0 - previous / (2 * ratio)
        decay = 0.0 if last else np.exp(lam[i] - lam[i + 1])
        z = g[i + 1] / g[i] * z - a[i + 1] * (decay - 1) * mixed
        previous = x0
    np.testing.assert_allclose(result.numpy(), z, atol=5e-5 if prediction == "epsilon" else 5e-6)


def ddpm_step(z, a, g, i):
    """Posterior of Ho et al. 2020, equations 6 and 7, between neighbours of the table: mean and standard deviation."""
    x0 = best_x0(z, a[i], g[i])
    alpha = (a[i] / a[i + 1]) ** 2
    mean = (a[i + 1] * (1 - alpha) * x0 + np.sqrt(alpha) * g[i + 1] ** 2 * z) / g[i] ** 2
    return mean, np.sqrt(g[i + 1] ** 2 / g[i] ** 2 * (1 - alpha))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("table", [IRREGULAR, timestep_table(1000, 40)])
def test_ddpm_equals_hand_written_recursion_with_the_items_own_draws(prediction, table):
    schedule = paper_schedule(prediction)
    noise = torch.stack([draw_noise(seed, (4, 3)) for seed in (0, 9)])
    streams = [ancestral_generator(seed) for seed in (0, 9)]
    result = sample(
        best_network(schedule, table), noise, schedule=schedule, sampler="ddpm", timesteps=table, generators=streams
    )
    a, g = levels(schedule, table)
    again = [ancestral_generator(seed) for seed in (0, 9)]
    z = noise.double().numpy()
    for i in range(len(table)):
        z, deviation = ddpm_step(z, a, g, i)
        if i < len(table) - 1:
            z = z + deviation * torch.stack([torch.randn(1, 4, 3, generator=stream)[0] for stream in again]).numpy()
    np.testing.assert_allclose(result.numpy(), z, atol=5e-5 if prediction == "epsilon" else 5e-6)


@pytest.mark.parametrize(
    ("steps", "spacing", "tolerance"),
    [(1000, "trailing", 0.02), (100, "quadratic", 0.05), (30, "quadratic", 0.12), (100, "trailing", 0.10)],
)
def test_ddpm_keeps_the_spread_at_any_number_of_steps(steps, spacing, tolerance):
    """A scheduler that reads t - 1 where the table's neighbour is meant gives 0.875 at 100 steps instead of 0.5."""
    schedule, table = paper_schedule("v_prediction"), timestep_table(1000, steps, spacing)
    # Exact propagation: each step is z -> c z + d + deviation * n.
    a, g = levels(schedule, table)
    mean, variance = 0.0, 1.0
    for i in range(len(table)):
        at_zero, deviation = ddpm_step(0.0, a, g, i)
        slope = ddpm_step(1.0, a, g, i)[0] - at_zero
        mean, variance = at_zero + slope * mean, slope**2 * variance + deviation**2
    assert np.sqrt(variance) == pytest.approx(S, rel=tolerance)
    count = 40_000
    result = sample(
        best_network(schedule, table),
        draw_noise(0, (count,))[None],
        schedule=schedule,
        sampler="ddpm",
        timesteps=table,
        generators=[ancestral_generator(0)],
    )
    # Five standard errors.
    assert result.mean().item() == pytest.approx(mean, abs=5 * S / np.sqrt(count))
    assert result.std().item() == pytest.approx(np.sqrt(variance), rel=5 / np.sqrt(2 * count))
    assert result.mean().item() == pytest.approx(MU, abs=0.02)


def test_ddim_with_eta_one_is_ddpm():
    """With eta = 1, DDIM's added noise is the posterior variance (Song et al. 2021, equation 16)."""
    schedule, noise = paper_schedule("v_prediction"), draw_noise(3, (2, 4, 4))[None]
    results = [
        sample(
            best_network(schedule, IRREGULAR),
            noise,
            schedule=schedule,
            sampler=sampler,
            timesteps=IRREGULAR,
            eta=eta,
            generators=[ancestral_generator(3)],
        )
        for sampler, eta in (("ddim", 1.0), ("ddpm", 0.0))
    ]
    torch.testing.assert_close(results[0], results[1], atol=5e-6, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("sampler", "steps", "tolerance"),
    [
        ("ddim", 20, 0.08),
        ("ddim", 50, 0.04),
        ("dpmsolver++", 20, 0.02),
        ("dpmsolver++", 50, 0.005),
        ("unipc", 20, 0.02),
        ("unipc", 50, 0.005),
    ],
)
def test_quadratic_tables_reproduce_mean_and_spread(prediction, sampler, steps, tolerance):
    mean, spread = moments(sampler, timestep_table(1000, steps, "quadratic"), paper_schedule(prediction))
    assert spread == pytest.approx(S, rel=tolerance)
    # z starts centred on 0, where the exact flow starts on MU times the signal left at T - 1, which is 0.012.
    assert mean == pytest.approx(MU, abs=0.01)


@pytest.mark.parametrize(
    ("spacing", "ddim", "dpmsolver"), [("trailing", 0.81, 0.86), ("leading", 0.84, 1.15), ("quadratic", 0.93, 1.01)]
)
def test_share_of_the_spread_after_20_steps_is_as_documented(spacing, ddim, dpmsolver):
    table = timestep_table(1000, 20, spacing)
    assert moments("ddim", table)[1] / S == pytest.approx(ddim, abs=0.01)
    assert moments("dpmsolver++", table)[1] / S == pytest.approx(dpmsolver, abs=0.01)


@pytest.mark.parametrize(
    ("sampler", "first", "last", "steps", "low", "high"),
    [
        ("ddim", 40_000, 10_000, (20, 40, 80), 1.9, 2.1),
        ("dpmsolver++", 40_000, 10_000, (20, 40, 80), 3.8, 4.4),
        ("unipc", 50_000, 5_000, (10, 20, 40), 5.5, 9.0),
    ],
)
def test_order_of_convergence(sampler, first, last, steps, low, high):
    """Twice the steps divide the error by 2 (DDIM, order 1), 4 (2M, order 2) or 8 (UniPC-2, corrected to order 3).

    The chain is fine (100 000 timesteps), so that rounding to timesteps does not count; the table is even in the log of
    the signal-to-noise ratio and ends at a fixed noise level, from which the last step is one jump onto the clean mean.
    """
    schedule = NoiseSchedule(100_000, "linear", 1e-5, 2e-4, "sample")
    alphas = schedule.alphas_cumprod.numpy()
    ratio = np.log(alphas / (1 - alphas))
    a, g = levels(schedule, (first, last))
    # The exact flow of a Gaussian scales the distance to the mean with the spread of z.
    spread = np.sqrt((a * S) ** 2 + g**2)
    exact = spread[1] / spread[0] * a[1] * S**2 / spread[1] ** 2
    errors = []
    for count in steps:
        table = [int(np.abs(ratio - r).argmin()) for r in np.linspace(ratio[first], ratio[last], count + 1)]
        errors.append(abs(moments(sampler, table, schedule)[1] - exact))
    for coarse, fine in pairwise(errors):
        assert low < coarse / fine < high, errors

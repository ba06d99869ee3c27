"""Rectified flow: the straight path, what a network predicts on it, and its sampler."""

import pytest
import torch

from ccella.diffusion.losses import min_snr_weights
from ccella.diffusion.samplers import FLOW_SAMPLERS, is_stochastic, sample
from ccella.diffusion.schedule import NoiseSchedule
from ccella.diffusion.timesteps import timestep_table

FLOW = NoiseSchedule(1000, "rectified_flow", 0.0, 0.0, "flow")


def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(4, 2, 3, generator=generator), torch.randn(4, 2, 3, generator=generator)
    return z, eps, torch.tensor([0, 249, 499, 999])


def test_the_path_is_straight_and_ends_in_noise() -> None:
    z, eps, t = pair()
    z_t, flow = FLOW.add_noise(z, eps, t), FLOW.target(z, eps, t)
    torch.testing.assert_close(z_t[1], 0.75 * z[1] + 0.25 * eps[1])
    torch.testing.assert_close(z_t[3], eps[3])
    torch.testing.assert_close(flow, eps - z)
    torch.testing.assert_close(FLOW.to_x0(z_t, flow, t), z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(FLOW.to_eps(z_t, flow, t), eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(FLOW.signal_to_noise(t)[1:], torch.tensor([9.0, 1.0, 0.0]))


def test_min_snr_weighs_the_clean_latents_error() -> None:
    z, eps, t = pair()
    error = 0.1 * torch.ones_like(z)
    z_t = FLOW.add_noise(z, eps, t)
    clean = FLOW.to_x0(z_t, FLOW.target(z, eps, t) + error, t) - z
    wanted = FLOW.signal_to_noise(t).clamp(max=5.0) * clean.square().flatten(1).mean(dim=1)
    found = min_snr_weights(FLOW, t, 5.0) * error.square().flatten(1).mean(dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def exact_flow(spread: float, table: tuple[int, ...]) -> "object":
    """The best prediction where the data are Gaussian of this standard deviation."""

    def predict(z: torch.Tensor, i: int) -> torch.Tensor:
        s = (table[i] + 1) / 1000
        return (s - (1 - s) * spread**2) / ((1 - s) ** 2 * spread**2 + s**2) * z

    return predict


@pytest.mark.parametrize(("steps", "tolerance"), [(20, 0.08), (200, 0.01)])
def test_euler_brings_noise_to_the_data(steps: int, tolerance: float) -> None:
    table = timestep_table(1000, steps, "trailing")
    noise = torch.randn(5000, 4, generator=torch.Generator().manual_seed(1))
    found = sample(exact_flow(0.5, table), noise, schedule=FLOW, sampler="euler", timesteps=table)  # type: ignore[arg-type]
    assert float(found.std()) == pytest.approx(0.5 * float(noise.std()), rel=tolerance)


def test_one_step_of_a_perfect_network_reaches_the_clean_latent() -> None:
    z, eps, _ = pair()
    found = sample(lambda z_t, i: eps - z, eps, schedule=FLOW, sampler="euler", timesteps=[999])
    torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)


def test_flow_and_diffusion_are_not_mixed_up() -> None:
    for schedule, prediction in (("rectified_flow", "epsilon"), ("linear", "flow")):
        with pytest.raises(ValueError, match="go with each other alone"):
            NoiseSchedule(1000, schedule, 0.001, 0.02, prediction)
    noise = torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="'ddim' does not go with the schedule 'rectified_flow'"):
        sample(lambda z, i: z, noise, schedule=FLOW, sampler="ddim", timesteps=[999])
    linear = NoiseSchedule(1000, "linear", 0.001, 0.02, "epsilon")
    with pytest.raises(ValueError, match="'euler' does not go"):
        sample(lambda z, i: z, noise, schedule=linear, sampler="euler", timesteps=[999])
    with pytest.raises(ValueError, match="no betas"):
        FLOW.betas  # noqa: B018
    assert [is_stochastic(name) for name in FLOW_SAMPLERS] == [False]

"""The scaling around a network: unit sizes at every noise level, and exact ends."""

import numpy as np
import pytest
import torch

from ccella.diffusion.preconditioning import Preconditioner
from ccella.diffusion.schedule import NoiseSchedule

MEAN, STD = (1.5, -0.25, 0.0), (2.0, 0.3, 1.0)


def make_schedule(prediction: str = "sample") -> NoiseSchedule:
    return NoiseSchedule(1000, "scaled_linear", 0.0015, 0.0195, prediction)


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 4, 3, 40, 40, generator=generator)
    clean = noise[0] * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    return clean, noise[1]


@pytest.mark.parametrize("t", [0, 200, 600, 999])
def test_input_and_wanted_output_have_unit_variance(latents: tuple[torch.Tensor, torch.Tensor], t: int) -> None:
    z, eps = latents
    schedule = make_schedule()
    step = torch.tensor(t)
    z_t = schedule.add_noise(z, eps, step)
    scaling = Preconditioner(schedule, MEAN, STD)
    seen = scaling.network_input(z_t, step)
    assert seen.mean((0, 2, 3)).abs().max() < 0.05
    assert seen.var((0, 2, 3)).numpy() == pytest.approx(1.0, abs=0.05)
    # What the network has to say for the clean latent to come out; solved from two outputs, as the map is affine.
    base = scaling.clean_latent(z_t, torch.zeros_like(z_t), step)
    slope = scaling.clean_latent(z_t, torch.ones_like(z_t), step) - base
    wanted = (z - base) / slope
    assert wanted.var((0, 2, 3)).numpy() == pytest.approx(1.0, abs=0.05)


def test_a_silent_network_gives_the_best_linear_guess(latents: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, eps = latents
    schedule, step = make_schedule(), torch.tensor(500)
    z_t = schedule.add_noise(z, eps, step)
    guess = Preconditioner(schedule, MEAN, STD).clean_latent(z_t, torch.zeros_like(z_t), step)
    for channel in range(3):
        x, y = z_t[:, channel].flatten().numpy(), z[:, channel].flatten().numpy()
        slope, intercept = np.polyfit(x, y, 1)
        assert guess[:, channel].flatten().numpy() == pytest.approx(slope * x + intercept, abs=0.12)


def test_items_have_their_own_timesteps(latents: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, eps = latents
    schedule, t = make_schedule(), torch.tensor([3, 300, 600, 999])
    scaling = Preconditioner(schedule, MEAN, STD)
    together = scaling.clean_latent(z, eps, t)
    for place in range(4):
        alone = scaling.clean_latent(z[place : place + 1], eps[place : place + 1], t[place])
        assert torch.equal(together[place : place + 1], alone)


def test_what_does_not_go_is_refused() -> None:
    with pytest.raises(ValueError, match="gives the clean latent, not 'epsilon'"):
        Preconditioner(make_schedule("epsilon"), MEAN, STD)
    for mean, std in (((), ()), (MEAN, STD[:2]), (MEAN, (1.0, 0.0, 1.0))):
        with pytest.raises(ValueError, match="positive deviation per channel"):
            Preconditioner(make_schedule(), mean, std)

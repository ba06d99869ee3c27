import numpy as np
import pytest
import torch

from ccella.diffusion.densities import DENSITIES, draw_timesteps

COUNT = 200_000


def draw(density: str, count: int = COUNT, train_timesteps: int = 1000, seed: int = 0) -> torch.Tensor:
    return draw_timesteps(count, train_timesteps, density, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", DENSITIES)
def test_timesteps_are_in_range_and_repeat_with_their_generator(density):
    t = draw(density, train_timesteps=7)
    assert t.dtype == torch.int64
    assert set(t.tolist()) == set(range(7))
    assert torch.equal(t, draw(density, train_timesteps=7))
    assert not torch.equal(t, draw(density, train_timesteps=7, seed=1))


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        ("uniform", np.full(10, 0.1)),
        # P(t = k) = P(k <= T sqrt(u) < k + 1) = (2k + 1) / T^2
        ("high_noise", (2 * np.arange(10) + 1) / 100),
        # Normal probabilities between the logits of 0, 0.1, ..., 1 (tables of the normal distribution)
        ("logit_normal", np.array([0.01400, 0.06883, 0.11559, 0.14410, 0.15748])[[0, 1, 2, 3, 4, 4, 3, 2, 1, 0]]),
    ],
)
def test_density_has_its_probabilities(density, expected):
    share = np.bincount(draw(density, train_timesteps=10).numpy(), minlength=10) / COUNT
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    # Five standard errors of a binomial share.
    np.testing.assert_array_less(np.abs(share - expected), 5 * np.sqrt(expected / COUNT) + 1e-5)


def test_nothing_to_draw_is_an_empty_tensor():
    assert draw("uniform", count=0).shape == (0,)


def test_unknown_density_and_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="'sqrt' is unknown"):
        draw("sqrt")
    with pytest.raises(ValueError, match="out of 0"):
        draw("uniform", train_timesteps=0)

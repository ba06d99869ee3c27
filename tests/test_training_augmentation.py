"""Random variations of volumes."""

import math

import pytest
import torch

from ccella.training.augmentation import Augmentation, transform


def volume(shape: tuple[int, ...] = (2, 8, 8, 4)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 3.0


def draw(augmentation: Augmentation, seed: int) -> torch.Tensor:
    return augmentation.apply(volume(), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_about_z(quarters: int) -> None:
    x = volume()
    turned = transform(x, angle_rad=quarters * math.pi / 2, shift=(0, 0, 0), zoom=1.0)
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (1, 2)), atol=1e-5, rtol=0)


def test_a_shift_moves_whole_voxels_and_brings_in_background() -> None:
    x = volume()
    moved = transform(x, angle_rad=0.0, shift=(2, -1, 1), zoom=1.0)
    torch.testing.assert_close(moved[:, 2:, :-1, 1:], x[:, :-2, 1:, :-1], atol=1e-5, rtol=0)
    lowest = x.amin(dim=(1, 2, 3))
    torch.testing.assert_close(moved[:, 0, 0, 0], lowest, atol=1e-5, rtol=0)
    assert moved.min() >= lowest.min() - 1e-5


def test_a_zoom_of_2_shows_the_middle_half() -> None:
    x = torch.linspace(-1, 1, 17)[None, :, None, None].expand(1, 17, 9, 5).contiguous()
    grown = transform(x, angle_rad=0.0, shift=(0, 0, 0), zoom=2.0)
    torch.testing.assert_close(grown[0, :, 4, 2], torch.linspace(-0.5, 0.5, 17), atol=1e-5, rtol=0)


def test_anisotropic_volumes_turn_in_voxels_not_in_shares() -> None:
    """A point 3 voxels along x comes to 3 voxels along y, whatever the sizes of the axes."""
    x = torch.zeros(1, 15, 9, 3)
    x[0, 7 + 3, 4, 1] = 1.0
    turned = transform(x, angle_rad=math.pi / 2, shift=(0, 0, 0), zoom=1.0)
    assert divmod(int(turned.argmax()), 3) == (7 * 9 + 4 + 3, 1)


def test_draws_are_a_function_of_the_seed() -> None:
    augmentation = Augmentation(0.5, 15.0, (2.0, 2.0, 1.0), (0.9, 1.1))
    assert torch.equal(draw(augmentation, 3), draw(augmentation, 3))
    results = {draw(augmentation, seed).sum().item() for seed in range(20)}
    assert len(results) > 10


def test_probability_0_leaves_everything_and_1_nothing() -> None:
    never = Augmentation(0.0, 15.0, (2.0, 2.0, 1.0), (0.9, 1.1))
    always = Augmentation(1.0, 15.0, (2.0, 2.0, 1.0), (0.9, 1.1))
    for seed in range(5):
        assert torch.equal(draw(never, seed), volume())
        assert not torch.equal(draw(always, seed), volume())


def test_each_kind_happens_half_of_the_time() -> None:
    flips = Augmentation(0.5, 0.0, (0.0, 0.0, 0.0), (1.0, 1.0))
    count = sum((draw(flips, seed) - volume().flip(1)).abs().max().item() < 1e-4 for seed in range(200))
    # Binomial(200, 1/2): outside 70..130 with probability below 1e-4.
    assert 70 <= count <= 130

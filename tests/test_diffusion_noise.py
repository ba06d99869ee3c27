import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.diffusion.noise import MAX_SEED, ancestral_generator, draw_noise, seed_from_id

SHAPE = (4, 8, 8, 4)


def test_noise_of_seed_zero_repeats_and_differs_from_seed_one():
    assert torch.equal(draw_noise(0, SHAPE), draw_noise(0, SHAPE))
    assert not torch.equal(draw_noise(0, SHAPE), draw_noise(1, SHAPE))


def test_noise_is_standard_normal_float32_on_the_cpu():
    noise = draw_noise(7, (200_000,))
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    # Five standard errors of the mean (1/sqrt(n)) and of the standard deviation (1/sqrt(2n)).
    assert abs(noise.mean().item()) < 5 / np.sqrt(200_000)
    assert abs(noise.std().item() - 1) < 5 / np.sqrt(400_000)


def test_noise_leaves_global_random_state_alone_and_ignores_it():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw_noise(3, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw_noise(3, SHAPE), first)


@pytest.mark.parametrize("seed", [0, 1, 12345, MAX_SEED])
def test_added_noise_is_another_stream_than_starting_noise(seed):
    added = torch.randn(SHAPE, generator=ancestral_generator(seed))
    start = draw_noise(seed, SHAPE)
    assert torch.equal(added, torch.randn(SHAPE, generator=ancestral_generator(seed)))
    assert abs(torch.corrcoef(torch.stack([added.flatten(), start.flatten()]))[0, 1].item()) < 0.15


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        draw_noise(seed, SHAPE)
    with pytest.raises(ValueError, match=str(seed)):
        ancestral_generator(seed)


@pytest.mark.parametrize("shape", [(), (4, 0), (-1, 3)])
def test_shape_without_elements_is_refused(shape):
    with pytest.raises(ValueError, match="positive axes"):
        draw_noise(0, shape)


def test_seed_from_id_is_fixed_for_all_time():
    # First four bytes of the digest shifted by one bit, from another reading of the digest (its hexadecimal form).
    for item_id in ("10000_1000000", "phantom1s0-00017_1", "é"):
        assert seed_from_id(item_id) == int(hashlib.sha256(item_id.encode()).hexdigest()[:8], 16) // 2
    assert seed_from_id("abc") == 0xBA7816BF // 2  # FIPS 180-4 test vector


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_seed_from_id_gives_a_usable_seed(item_id):
    seed = seed_from_id(item_id)
    assert 0 <= seed < 2**31
    assert draw_noise(seed, (1,)).shape == (1,)

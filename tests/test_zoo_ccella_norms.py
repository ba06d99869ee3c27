"""Group normalisation of volumes that lie channels last, against a computation in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ccella.zoo.families.ccella.norms import GroupNorm, channel_moments, make_precise, normalise
from ccella.zoo.layouts import is_channels_last, store_channels_last


def volume(shape=(2, 12, 20, 18, 6), dtype=torch.float32, offset=3.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + offset
    return x.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def norm_of(channels, groups):
    norm = nn.GroupNorm(groups, channels, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


@torch.no_grad()
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_normalisation_equals_float64(groups, activate):
    x, norm = volume(), norm_of(12, groups)
    expected = functional.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double(), norm.eps)
    if activate:
        expected = expected * torch.sigmoid(expected)
    result = normalise(x, norm, activate=activate)
    assert is_channels_last(result)
    assert torch.allclose(result.double(), expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_sums_over_many_voxels_keep_their_digits():
    """Four million values per group, of which float32 sums lose the last three digits."""
    x = volume((1, 8, 128, 128, 64), offset=4.0)
    norm = norm_of(8, 2)
    expected = functional.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps)
    assert float((normalise(x, norm, activate=False).double() - expected).abs().max()) < 5e-6
    # What it stands in for; once PyTorch's kernel keeps its digits, ours has no purpose.
    assert float((norm(x).double() - expected).abs().max()) > 5e-5


def test_moments_of_channels():
    x = volume()[1]
    mean, variance = channel_moments(x)
    assert mean.dtype == torch.float64
    assert torch.allclose(mean, x.double().mean((1, 2, 3)), rtol=1e-6)
    assert torch.allclose(variance, x.double().var((1, 2, 3), correction=0), rtol=1e-5)


def test_a_small_variance_around_a_large_mean():
    x = 1000 + 0.01 * volume(offset=0.0)[0]
    mean, variance = channel_moments(x)
    assert torch.allclose(mean, x.double().mean((1, 2, 3)), rtol=1e-9)
    assert torch.allclose(variance, x.double().var((1, 2, 3), correction=0), rtol=1e-4)


def test_a_network_normalises_alike_in_both_layouts_and_trains():
    network = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), norm_of(8, 4), nn.SiLU())
    make_precise(network)
    assert type(network[1]) is GroupNorm
    x = torch.randn(1, 3, 8, 8, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(x)
        store_channels_last(network)
        after = network(x)
    assert torch.allclose(before, after, atol=1e-5)
    network(x).sum().backward()
    assert torch.isfinite(network[1].weight.grad).all()


def test_layouts_of_images_and_volumes():
    assert is_channels_last(torch.zeros(1, 4, 8, 8).contiguous(memory_format=torch.channels_last))
    assert is_channels_last(torch.zeros(1, 4, 8, 8, 4).contiguous(memory_format=torch.channels_last_3d))
    # What lies both ways at once counts as PyTorch's default.
    for shape in ((1, 4, 8, 8), (1, 1, 8, 8, 4), (1, 4, 1, 1, 1), (4, 8)):
        assert not is_channels_last(torch.zeros(shape))

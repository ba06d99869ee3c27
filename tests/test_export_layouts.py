"""Memory layouts that PyTorch runs a network in: which weights are stored how, and the same results."""

import copy

import pytest
import torch
from torch import nn

from ccella.export.layouts import choose_layouts
from ccella.export.runtimes import choose_runtime
from ccella.zoo.families.ccella.slabs import decode_in_slabs
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card


def stored_last(conv):
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[conv.weight.ndim]
    return conv.weight.is_contiguous(memory_format=layout) and not conv.weight.is_contiguous()


@pytest.mark.parametrize(("dtype", "wide_last"), [(torch.float32, False), (torch.bfloat16, True)])
def test_wide_convolutions_keep_the_default_layout_in_float32(dtype, wide_last):
    network = nn.Sequential(nn.Conv3d(128, 256, 3), nn.Conv3d(256, 4, 3), nn.Conv2d(16, 16, 3)).to(dtype)
    values = [conv.weight.clone() for conv in network]
    choose_layouts(network)
    assert [stored_last(conv) for conv in network] == [True, wide_last, True]
    assert all(torch.equal(conv.weight, value) for conv, value in zip(network, values, strict=True))


def test_networks_without_weights_and_narrow_ones_stay_as_they_are():
    choose_layouts(nn.SiLU())
    linear = nn.Linear(4, 4)
    choose_layouts(linear)
    assert linear.weight.is_contiguous()
    narrow = nn.Conv3d(64, 64, 3)
    choose_layouts(narrow)
    assert not stored_last(narrow)


def test_a_runtime_chooses_for_its_precision():
    card = find_card("ccella-pp/phantom")
    for precision, encoder_last in (("fp32", False), ("bf16", True)):
        network = choose_runtime("torch", card, device="cpu", precision=precision).load(card, "autoencoder")
        # Items are decoded one by one, so that in float32 too the layout cannot make them depend on their neighbours.
        for part, last in ((network.encoder, encoder_last), (network.decoder, True)):
            convolutions = [each for each in part.modules() if isinstance(each, nn.Conv3d) and each.kernel_size[0] == 3]
            wide = [each for each in convolutions if min(each.in_channels, each.out_channels) > 1]
            assert all(stored_last(each) == last for each in wide)


@torch.no_grad()
def test_the_published_autoencoder_decodes_alike_in_both_layouts_and_in_slabs():
    card = find_card("ccella-pp")
    family = load_family(card.family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = family.build(card.part("autoencoder")).eval().requires_grad_(False)
    arranged = copy.deepcopy(plain)
    choose_layouts(arranged)
    assert any(stored_last(each) for each in arranged.modules() if isinstance(each, nn.Conv3d))
    z = torch.randn(1, 4, 12, 8, 4, generator=torch.Generator().manual_seed(3))
    whole = plain.decode(z)
    # A trained decoder's voxels lie in 0..1, a random one's go beyond, and rounding with them.
    bound = 1e-5 * float(whole.abs().max())
    assert float((arranged.decode(z) - whole).abs().max()) < bound
    # Statistics of slabs are summed in this layout too.
    memory = family.plan_decode(arranged, z.shape[2:], 1, 2**50).memory_bytes
    slabs = family.plan_decode(arranged, z.shape[2:], 1, memory - 1)
    assert slabs.planes is not None
    assert float((decode_in_slabs(arranged, z, slabs.planes) - whole).abs().max()) < bound

"""Memory layouts that PyTorch runs a network in: which weights are stored how, and the same results."""

import pytest
import torch
from torch import nn

from ccella.export.layouts import choose_layouts
from ccella.export.runtimes import choose_runtime
from ccella.zoo.family import load_family
from ccella.zoo.loading import load_part
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


def test_networks_without_weights_or_convolutions():
    choose_layouts(nn.SiLU())
    linear = nn.Linear(4, 4)
    choose_layouts(linear)
    assert linear.weight.is_contiguous()


@torch.no_grad()
def test_a_runtime_computes_what_the_plain_network_does():
    card = find_card("ccella-pp/phantom")
    family, runtime = load_family(card.family), choose_runtime("torch", card, device="cpu", precision="fp32")
    z = torch.randn(1, *card.latent_shape, generator=torch.Generator().manual_seed(3))
    plain, arranged = load_part(card, "autoencoder"), runtime.load(card, "autoencoder")
    assert any(stored_last(each) for each in arranged.modules() if isinstance(each, nn.Conv3d))
    whole = family.decode_latent(card, plain, z)
    assert torch.allclose(family.decode_latent(card, arranged, z), whole, atol=1e-5)
    # In slabs as well: their statistics are summed in this layout too.
    least = family.plan_decode(arranged, z.shape[2:], 1, 2**50).memory_bytes // 2
    assert torch.allclose(family.decode_latent(card, arranged, z, memory_bytes=least), whole, atol=1e-5)
    conditions = torch.randn(1, 6, card.part("denoiser").config["adapter"]["text_width"])
    inputs = (z, torch.tensor([400]), conditions, None, torch.tensor([card.image.spacing_mm]))
    expected, _ = load_part(card, "denoiser")(*inputs)
    result, _ = runtime.load(card, "denoiser")(*inputs)
    assert torch.allclose(result, expected, atol=1e-4 * float(expected.abs().max()))

"""The CCELLA networks against the published names and shapes, the autoencoder against MONAI's, and wrong tables."""

import json
import math
from pathlib import Path

import pytest
import torch
from support.small_networks import SMALL_ADAPTER, SMALL_UNET

from ccella.zoo.errors import CardError
from ccella.zoo.families.ccella.autoencoder import build_autoencoder
from ccella.zoo.families.ccella.config import UNetConfig, read_settings
from ccella.zoo.families.ccella.denoiser import build_denoiser
from ccella.zoo.families.ccella.unet import UNet

DATA = Path(__file__).parent / "data"
FULL_AUTOENCODER = {"channels": [64, 128, 256], "num_res_blocks": [2, 2, 2]}
SMALL_AUTOENCODER = {"channels": [8, 16, 16], "num_res_blocks": [1, 2, 1], "norm_num_groups": 4}


def full_denoiser(channels):
    adapter = {"width": 768, "text_width": 4096, "latents": 256, "heads": 8, "blocks": 6, "class_hidden": 256}
    unet = {
        "in_channels": channels,
        "out_channels": channels,
        "channels": [64, 128, 256, 512],
        "num_res_blocks": [2, 2, 2, 2],
        "attention_levels": [False, False, True, True],
        "num_head_channels": 32,
    }
    return {"adapter": adapter, "unet": unet}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.0 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def published(name):
    return {key: tuple(shape) for key, shape in json.loads((DATA / name).read_text(encoding="utf-8")).items()}


def shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_ccella_pp_has_the_published_names_and_shapes():
    with torch.device("meta"):
        model = build_denoiser(full_denoiser(12))
    assert shapes(model) == published("ccella_pp_keys.json")
    assert {name for name, _ in model.named_parameters()} == set(published("ccella_pp_keys.json"))
    assert (count(model), count(model.ella), count(model.unet)) == (575_534_130, 370_535_436, 204_998_668)


def test_ccella_differs_from_ccella_pp_in_three_shapes():
    with torch.device("meta"):
        model = build_denoiser(full_denoiser(4))
    expected = published("ccella_pp_keys.json")
    expected["unet.conv_in.conv.weight"] = (64, 4, 3, 3, 3)
    expected["unet.out.2.conv.weight"] = (4, 64, 3, 3, 3)
    expected["unet.out.2.conv.bias"] = (4,)
    assert shapes(model) == expected


def test_autoencoder_has_the_published_names_and_shapes():
    with torch.device("meta"):
        model = build_autoencoder(FULL_AUTOENCODER)
    assert shapes(model) == published("maisi_autoencoder_keys.json")
    assert count(model) == 20_944_897


def monai_autoencoder():
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    return AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=[1, 2, 1],
        num_channels=[8, 16, 16],
        attention_levels=[False, False, False],
        latent_channels=4,
        norm_num_groups=4,
        norm_eps=1e-6,
        num_splits=1,
    ).eval()


@pytest.mark.parametrize("gradients", [False, True])
def test_fused_autoencoder_equals_monai(gradients):
    ours = randomise(build_autoencoder(SMALL_AUTOENCODER), 3)
    theirs = monai_autoencoder()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.rand((2, 1, 16, 8, 12), generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(gradients):
        mean, sigma = ours.encode_moments(x)
        their_mean, their_sigma = theirs.encode(x)
        torch.testing.assert_close(mean, their_mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sigma, their_sigma, atol=1e-5, rtol=1e-5)
        image, their_image = ours.decode(mean), theirs.decode(mean)
    torch.testing.assert_close(image, their_image, atol=1e-5, rtol=1e-5)
    assert mean.shape == (2, 4, 4, 2, 3)
    assert image.std() > 0.01


def test_sigma_is_clamped():
    model = randomise(build_autoencoder(SMALL_AUTOENCODER), 3)
    with torch.no_grad():
        model.quant_conv_log_sigma.conv.weight.zero_()
        model.quant_conv_log_sigma.conv.bias.copy_(torch.tensor([1000.0, -1000.0, 0.0, 2.0]))
        _, sigma = model.encode_moments(torch.rand(1, 1, 8, 8, 8))
    expected = torch.tensor([math.exp(10), math.exp(-15), 1.0, math.e])
    torch.testing.assert_close(sigma[0, :, 0, 0, 0], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 6), (1, 8, 8, 8)])
def test_autoencoder_refuses_shapes_it_cannot_encode(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        build_autoencoder(SMALL_AUTOENCODER).encode_moments(torch.rand(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": {"widht": 32}}, "unknown key `widht`"),
        ({"adapter": {"width": 30}}, "not a multiple of 4"),
        ({"adapter": {"class_head": "all"}}, "'all'"),
        ({"adapter": {"blocks": 0}}, "is 0"),
        ({"adapter": {"latents": True}}, "is True"),
        ({"unet": {"channels": 8}}, "not a list"),
        ({"unet": {"channels": [8, 16]}}, "3 values for 2 levels"),
        ({"unet": {"channels": [8, 10, 16]}}, "which is not a multiple of 4"),
        ({"class_input": "guess"}, "'guess'"),
        ({"text_contxt": True}, "unknown key `text_contxt`"),
        ({"adapter": {"class_head": "none"}}, "nothing to predict with"),
    ],
)
def test_a_wrong_table_is_named(change, message):
    tables = {"adapter": SMALL_ADAPTER, "unet": SMALL_UNET}
    merged = {key: {**tables[key], **value} if key in tables else value for key, value in change.items()}
    with pytest.raises(CardError, match=message) as caught:
        build_denoiser({**tables, **merged})
    assert caught.value.remedy


def test_missing_tables_and_keys_are_named():
    with pytest.raises(CardError, match="lacks the table `unet`"):
        build_denoiser({"adapter": SMALL_ADAPTER})
    with pytest.raises(CardError, match="lacks `num_res_blocks`"):
        build_autoencoder({"channels": [8, 16]})
    with pytest.raises(CardError, match="unknown key `chanels`") as caught:
        build_autoencoder({"chanels": [8, 16]})
    assert "channels" in caught.value.remedy


def test_coordinates_are_the_voxels_centres_and_widen_the_first_convolution_alone() -> None:
    numbers = {
        "in_channels": 2, "out_channels": 2, "channels": (8, 16), "num_res_blocks": (1, 1),
        "attention_levels": (False, True), "num_head_channels": 8, "norm_num_groups": 8,
    }  # fmt: skip
    plain, located = (UNet(UNetConfig(**numbers, coordinates=on), context_width=None) for on in (False, True))
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (plain, located)]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {"conv_in.conv.weight"}
    assert located.conv_in.conv.in_channels == 5

    seen = []
    located.conv_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = torch.zeros(2, 2, 4, 2, 8)
    with torch.no_grad():
        located(z, torch.tensor([1, 2]), None, torch.zeros(2, 2), torch.ones(2, 3))
    x, y, last = seen[0][1, 2:]
    assert x[:, 0, 0].tolist() == [-3.0, -1.0, 1.0, 3.0]
    assert y[0, :, 0].tolist() == [-2.0, 2.0]
    assert last[0, 0].tolist() == [-3.5 + place for place in range(8)]
    assert torch.equal(x, x[:, :1, :1].expand_as(x))


@torch.no_grad()
def test_a_level_without_self_attention_attends_to_the_report_alone() -> None:
    numbers = {
        "in_channels": 2, "out_channels": 2, "channels": (8, 16), "num_res_blocks": (1, 1),
        "attention_levels": (True, True), "num_head_channels": 8, "norm_num_groups": 8,
    }  # fmt: skip
    whole = randomise(UNet(UNetConfig(**numbers), context_width=4), 5)
    less = UNet(UNetConfig(**numbers, self_attention_levels=(False, True)), context_width=4).eval()
    gone = set(whole.state_dict()) - set(less.state_dict())
    finest = [name for name in whole.state_dict() if name.startswith(("down_blocks.0.", "up_blocks.1."))]
    assert gone == {
        name for name in finest if "transformer_blocks" in name and (".attn1." in name or ".norm1." in name)
    }

    # Self-attention to values of zero is none.
    values = whole.state_dict()
    for name in gone:
        if ".attn1.to_v." in name:
            values[name].zero_()
    less.load_state_dict({name: value for name, value in values.items() if name not in gone})
    rng = torch.Generator().manual_seed(6)
    z, text = torch.randn(2, 2, 4, 4, 4, generator=rng), torch.randn(2, 5, 4, generator=rng)
    rest = (torch.tensor([[20.0, 80.0], [70.0, 30.0]]), torch.ones(2, 3))
    t = torch.tensor([3, 700])
    assert torch.allclose(less(z, t, text, *rest), whole(z, t, text, *rest), atol=1e-5)
    assert not torch.allclose(less(z, t, text + 1, *rest), less(z, t, text, *rest), atol=1e-3)

    # Without a report there is nothing left to attend to.
    alone = UNet(UNetConfig(**numbers, self_attention_levels=(False, True)), context_width=None)
    assert not any(
        name.startswith(("down_blocks.0.attentions", "up_blocks.1.attentions")) for name in alone.state_dict()
    )
    assert any(name.startswith("down_blocks.1.attentions") for name in alone.state_dict())


@pytest.mark.parametrize(
    ("levels", "message"), [([True], "has 1 values for 2 levels"), ([True, True], "without attention")]
)
def test_self_attention_is_said_of_every_level_that_attends(levels, message) -> None:
    numbers = {"channels": [8, 16], "attention_levels": [False, True], "num_head_channels": 8, "norm_num_groups": 8}
    table = {"in_channels": 2, "out_channels": 2, "num_res_blocks": [1, 1], **numbers, "self_attention_levels": levels}
    with pytest.raises(CardError, match=message):
        read_settings(UNetConfig, table, "unet")

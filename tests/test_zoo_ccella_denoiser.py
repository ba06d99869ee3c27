"""The CCELLA denoiser: adapter, U-Net and class head against independent computations and their own promises."""

import copy
import math

import pytest
import torch
from support.small_networks import SMALL_ADAPTER, SMALL_UNET
from torch import nn

from ccella.zoo.families.ccella.adapter import AdaptiveNorm, embed_timestep
from ccella.zoo.families.ccella.denoiser import build_denoiser, scale_logits


def small_denoiser(seed=0, adapter=None, unet=None, **config):
    """A small denoiser whose every weight is random: layers that start at zero would hide what is behind them."""
    model = build_denoiser(
        {"adapter": {**SMALL_ADAPTER, **(adapter or {})}, "unet": {**SMALL_UNET, **(unet or {})}, **config}
    )
    return randomise(model, seed)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.0 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch=2, length=7, size=(8, 8, 4)):
    spacing = torch.tensor([[1.5, 1.5, 3.0], [0.5, 0.5, 0.5], [0.7, 0.8, 3.6]])[:batch]
    return {
        "z": draw(batch, 12, *size),
        "t": torch.tensor([999, 20, 500])[:batch],
        "text": draw(batch, length, 12, seed=2),
        "mask": torch.ones(batch, length, dtype=torch.bool),
        "spacing_mm": spacing,
    }


def test_unet_equals_monai_with_a_padded_region_layer():
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    ours = small_denoiser().unet
    theirs = DiffusionModelUNetMaisi(
        spatial_dims=3,
        in_channels=12,
        out_channels=12,
        num_res_blocks=[1, 1, 1],
        num_channels=[8, 16, 16],
        attention_levels=[False, True, True],
        num_head_channels=8,
        norm_num_groups=4,
        with_conditioning=True,
        cross_attention_dim=32,
        include_top_region_index_input=True,
        include_spacing_input=True,
    ).eval()
    state = {key.replace("pirads_layer", "top_region_index_layer"): value for key, value in ours.state_dict().items()}
    narrow = state["top_region_index_layer.0.weight"]
    state["top_region_index_layer.0.weight"] = torch.cat([narrow, torch.zeros_like(narrow)], dim=1)
    theirs.load_state_dict(state, strict=True)
    given = inputs()
    classes = torch.tensor([[100.0, 0.0], [30.0, 70.0]])
    context = draw(2, 5, 32, seed=4)
    with torch.no_grad():
        prediction = ours(given["z"], given["t"], context, classes, given["spacing_mm"])
        expected = theirs(
            given["z"],
            given["t"],
            context=context,
            top_region_index_tensor=torch.cat([classes, torch.zeros(2, 2)], dim=1),
            spacing_tensor=given["spacing_mm"] * 100,
        )
    assert expected.std() > 0.1
    torch.testing.assert_close(prediction, expected, atol=1e-5, rtol=1e-5)


def test_unet_predicts_the_same_with_and_without_gradients():
    """Attention runs through another kernel where a CPU needs gradients."""
    model = small_denoiser()
    with torch.no_grad():
        fused, _ = model(**inputs())
    plain, _ = model(**inputs())
    with torch.no_grad():
        again, _ = model(**inputs())
    torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, fused)


def test_training_on_a_cpu_fuses_the_attention_of_many_pairs_alone():
    model = small_denoiser()
    blocks = [model.unet.down_blocks[1], model.unet.middle_block, model.unet.up_blocks[1], model.unet.up_blocks[0]]

    def fused(name, size):
        model(**inputs(size=size))
        found = [
            [each.use_flash_attention for path, each in block.named_modules() if path.endswith(name)]
            for block in blocks
        ]
        assert all(len(set(flags)) == 1 for flags in found)
        return [flags[0] for flags in found]

    # Levels 1, 2, 1 and 2 of latents with 512 voxels at level 1; the context has 5 words.
    assert fused("attn1", (16, 16, 16)) == [True, False, True, False]
    assert fused("attn2", (16, 16, 16)) == [False] * 4
    assert fused("attn1", (16, 16, 8)) == [False] * 4
    with torch.no_grad():
        assert fused("attn1", (8, 8, 8)) == fused("attn2", (8, 8, 8)) == [True] * 4


def test_unet_refuses_a_missing_or_needless_context():
    given = inputs()
    with_text, without = small_denoiser().unet, small_denoiser(text_context=False).unet
    with pytest.raises(ValueError, match="none context was given"):
        with_text(given["z"], given["t"], None, torch.zeros(2, 2), given["spacing_mm"])
    with pytest.raises(ValueError, match="no cross-attention"):
        without(given["z"], given["t"], draw(2, 5, 32), torch.zeros(2, 2), given["spacing_mm"])


def test_timestep_features_equal_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 500, 999])
    expected = get_timestep_embedding(t, 320, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(embed_timestep(t, 320), expected, atol=1e-4, rtol=1e-4)


def test_attention_equals_torch_multihead_attention():
    attention = small_denoiser().ella.connector.perceiver_blocks[0].attn
    reference = nn.MultiheadAttention(32, 4, batch_first=True)
    reference.load_state_dict(attention.state_dict(), strict=True)
    queries, keys = draw(2, 5, 32), draw(2, 9, 32, seed=2)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    expected, _ = reference(queries, keys, keys, key_padding_mask=~mask)
    torch.testing.assert_close(attention(queries, keys, mask), expected, atol=1e-5, rtol=1e-5)


def test_adaptive_norm_starts_as_plain_layer_norm():
    x = draw(2, 5, 32) * 7 + 3
    expected = nn.functional.layer_norm(x, (32,), eps=1e-6)
    torch.testing.assert_close(AdaptiveNorm(32)(x, draw(2, 32, seed=2)), expected)
    fresh = build_denoiser({"adapter": SMALL_ADAPTER, "unet": SMALL_UNET})
    modulations = [module.linear for module in fresh.modules() if isinstance(module, AdaptiveNorm)]
    assert len(modulations) == 9
    assert all(not parameter.any() for linear in modulations for parameter in linear.parameters())


def test_fresh_denoiser_predicts_zero_and_learns():
    """The last convolution starts at zero, and the loss reaches the U-Net, the adapter and the class head."""
    model = build_denoiser({"adapter": SMALL_ADAPTER, "unet": SMALL_UNET})
    prediction, logits = model(**inputs())
    assert not prediction.any()
    assert logits.shape == (2, 2)
    model = small_denoiser()
    prediction, logits = model(**inputs())
    (prediction.square().mean() + logits.square().mean()).backward()
    unreached = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert unreached == set()


def test_padding_changes_nothing():
    ella = small_denoiser().ella
    given = inputs()
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    with torch.no_grad():
        context, logits = ella(given["text"], mask, given["t"])
        garbage = torch.where(mask[..., None], given["text"], torch.tensor(1e3))
        for text, padding in ((garbage, mask), (given["text"][1:, :3], None)):
            other, other_logits = ella(text, None if padding is None else mask, given["t"][-len(text) :])
            torch.testing.assert_close(other[-1], context[-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(other_logits[-1], logits[-1], atol=1e-5, rtol=1e-5)
        unmasked, _ = ella(garbage, None, given["t"])
    assert (unmasked[-1] - context[-1]).abs().max() > 1e-3


def test_one_report_at_all_timesteps_equals_repeating_it():
    ella = small_denoiser().ella
    text, t = draw(1, 7, 12), torch.tensor([999, 500, 0])
    with torch.no_grad():
        together = ella(text, torch.ones(1, 7, dtype=torch.bool), t)
        repeated = ella(text.repeat(3, 1, 1), None, t)
    for one, other in zip(together, repeated, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert (together[0][0] - together[0][2]).abs().max() > 1e-3


def test_item_does_not_depend_on_its_neighbours():
    model = small_denoiser()
    given = inputs(batch=3)
    with torch.no_grad():
        prediction, logits = model(**given)
        alone, alone_logits = model(**{name: value[2:] for name, value in given.items()})
    torch.testing.assert_close(prediction[2:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[2:], alone_logits, atol=1e-5, rtol=1e-5)


def test_predicted_class_is_the_softmax_in_percent():
    model = small_denoiser()
    given = inputs()
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    torch.testing.assert_close(scale_logits(logits), torch.tensor([[50.0, 50.0], [75.0, 25.0]]))
    with torch.no_grad():
        prediction, logits = model(**given)
        same, _ = model(**given, class_input=scale_logits(logits))
        other, _ = model(**given, class_input=torch.tensor([[0.0, 100.0], [0.0, 100.0]]))
    assert torch.equal(prediction, same)
    assert not torch.allclose(prediction, other, atol=1e-3)


def test_published_head_concatenates_the_pairs_of_all_blocks():
    ella = small_denoiser().ella
    given = inputs()
    with torch.no_grad():
        features = embed_timestep(given["t"], 320)
        _, values = ella.connector(given["text"], None, ella.time_embedding(features))
        _, logits = ella(given["text"], None, given["t"])
        assert len(values) == 3
        torch.testing.assert_close(logits, ella.classifier(torch.cat(values, 1)))


@pytest.mark.parametrize(
    ("head", "adaptors", "values"), [("each", 3, 6), ("shared", 1, 6), ("first", 1, 2), ("last", 1, 2)]
)
def test_class_heads(head, adaptors, values):
    model = small_denoiser(adapter={"class_head": head})
    assert len(model.ella.connector.cascade_blocks) == adaptors
    assert model.classifier.in_features == values
    prediction, logits = model(**inputs())
    assert prediction.shape == (2, 12, 8, 8, 4)
    assert logits.std() > 0


def test_first_head_ignores_later_blocks_and_last_head_does_not():
    given = inputs()
    for head, follows in (("first", False), ("last", True)):
        model = small_denoiser(adapter={"class_head": head})
        _, before = model.ella(given["text"], None, given["t"])
        with torch.no_grad():
            model.ella.connector.perceiver_blocks[1].mlp.c_proj.bias += 1.0
        _, after = model.ella(given["text"], None, given["t"])
        assert torch.equal(before, after) != follows


def test_ground_truth_class_is_required_and_used():
    model = small_denoiser(class_input="given", adapter={"class_head": "none"})
    given = inputs()
    with pytest.raises(ValueError, match="needs a class"):
        model(**given)
    benign, logits = model(**given, class_input=torch.tensor([[100.0, 0.0]] * 2))
    cancer, _ = model(**given, class_input=torch.tensor([[0.0, 100.0]] * 2))
    assert not torch.allclose(benign, cancer, atol=1e-3)
    assert not logits.any()
    assert model.classifier is None


def test_text_only_takes_no_class():
    model = small_denoiser(class_input="none", adapter={"class_head": "none"})
    given = inputs()
    with pytest.raises(ValueError, match="takes no class"):
        model(**given, class_input=torch.zeros(2, 2))
    prediction, _ = model(**given)
    other, _ = model(**{**given, "text": given["text"].flip(0)})
    assert not torch.allclose(prediction, other, atol=1e-3)


@pytest.mark.parametrize(("class_input", "follows"), [("predicted", True), ("none", False)])
def test_without_context_text_reaches_the_image_through_the_class_alone(class_input, follows):
    model = small_denoiser(class_input=class_input, text_context=False)
    given = inputs()
    with torch.no_grad():
        prediction, _ = model(**given)
        other, _ = model(**{**given, "text": given["text"].flip(0)})
        spaced, _ = model(**{**given, "spacing_mm": given["spacing_mm"].flip(0)})
    assert torch.equal(prediction, other) != follows
    assert not torch.allclose(prediction, spaced, atol=1e-3)


def test_a_copy_owns_its_class_head():
    """The adapter refers to the head without registering it; a copy (as for averaged weights) must not share it."""
    model = small_denoiser()
    twin = copy.deepcopy(model)
    assert twin.ella.classifier is twin.classifier
    assert twin.classifier is not model.classifier
    with torch.no_grad():
        twin.classifier.bias += 5.0
    given = inputs()
    _, logits = model.ella(given["text"], None, given["t"])
    _, moved = twin.ella(given["text"], None, given["t"])
    torch.testing.assert_close(moved - logits, torch.full((2, 2), 5.0))


def test_loading_from_the_meta_device_reaches_the_class_head():
    source = small_denoiser()
    with torch.device("meta"):
        model = build_denoiser({"adapter": SMALL_ADAPTER, "unet": SMALL_UNET})
    model.load_state_dict(source.state_dict(), strict=True, assign=True)
    given = inputs()
    with torch.no_grad():
        for ours, theirs in zip(model.eval()(**given), source(**given), strict=True):
            assert torch.equal(ours, theirs)

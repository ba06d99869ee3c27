import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.diffusion.guidance import guide


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_scale_one_is_the_conditional_and_zero_the_unconditional_exactly(seed):
    generator = torch.Generator().manual_seed(seed)
    cond, uncond = torch.randn(2, 4, generator=generator), 1e4 * torch.randn(2, 4, generator=generator)
    assert torch.equal(guide(cond=cond, uncond=uncond, scale=1.0), cond)
    assert torch.equal(guide(cond=cond, uncond=uncond, scale=0.0), uncond)


def test_golden_values():
    cond, uncond = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0])
    assert guide(cond=cond, uncond=uncond, scale=2.0).tolist() == [5.0, -3.0]
    assert guide(cond=cond, uncond=uncond, scale=0.5).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match=str(scale)):
        guide(cond=torch.zeros(1), uncond=torch.zeros(1), scale=scale)


def test_different_shapes_are_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        guide(cond=torch.zeros(2, 3), uncond=torch.zeros(1, 3), scale=3.0)

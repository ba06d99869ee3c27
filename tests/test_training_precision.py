"""fp16 with its loss scale, and the clipping of gradients."""

import pytest
import torch
from torch import nn

from ccella.training.precision import Precision, clip_gradients


def test_a_step_that_overflows_is_left_out_and_the_scale_halved() -> None:
    device = torch.device("cpu")
    precision = Precision("fp16", device)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for factor, taken in ((1e38, False), (1e-3, True)):
        optimizer.zero_grad()
        precision.backward((weight * factor).sum())
        precision.unscale(optimizer)
        norm = float(clip_gradients([weight], 1.0))
        assert torch.isfinite(torch.tensor(norm)).item() is taken
        assert precision.forgives
        precision.step(optimizer)
        assert torch.equal(weight, torch.ones(2)) is not taken
    assert precision.scale == 2.0**15
    other = Precision("fp16", device)
    other.restore(precision.state())
    assert other.scale == precision.scale


def test_clipping_keeps_direction_and_says_the_former_norm() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert float(clip_gradients(weights, float("inf"))) == pytest.approx(5.0)
    assert weights[1].grad.tolist() == [4.0]
    assert float(clip_gradients(weights, 0.5)) == pytest.approx(5.0)
    assert weights[0].grad.tolist() + weights[1].grad.tolist() == pytest.approx([0.3, 0.0, 0.4], rel=1e-4)

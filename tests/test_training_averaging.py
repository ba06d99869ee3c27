"""The moving average of weights."""

import pytest
from torch import nn

from ccella.training.averaging import WeightAverage


def test_the_average_follows_the_weights() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = WeightAverage(module, 0.5)
    module.weight.data.fill_(1.0)
    average.update(1)  # The decay has risen to 2 / 11 only.
    assert average.state()["weight"].item() == pytest.approx(9 / 11)
    average.update(1000)
    assert average.state()["weight"].item() == pytest.approx((9 / 11 + 1) / 2)
    with average.applied():
        assert module.weight.item() == pytest.approx((9 / 11 + 1) / 2)
    assert module.weight.item() == 1.0
    with pytest.raises(ValueError, match="hold 0 tensors"):
        average.restore({})

"""The learning rate as a function of the step."""

import pytest

from ccella.training.config import LoopTraining
from ccella.training.rates import learning_rate


@pytest.mark.parametrize(
    ("schedule", "half"), [("constant", 1.0), ("polynomial", 0.1 + 0.9 * 0.25), ("cosine", 0.1 + 0.9 * 0.5)]
)
def test_learning_rates(schedule: str, half: float) -> None:
    options = LoopTraining(steps=110, warmup_steps=10, learning_rate=2.0, lr_schedule=schedule, lr_final=0.1)
    assert learning_rate(options, 0) == pytest.approx(0.2)
    assert learning_rate(options, 9) == pytest.approx(2.0)
    assert learning_rate(options, 10) == pytest.approx(2.0)
    assert learning_rate(options, 60) == pytest.approx(2.0 * half)
    assert learning_rate(options, 110) == pytest.approx(2.0 if schedule == "constant" else 0.2)

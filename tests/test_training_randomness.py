"""Which items a step sees and what it draws: functions of the seed and the step alone."""

import torch

from ccella.training.randomness import epoch_order, item_generator, scoped_seed, step_indices


def test_every_epoch_visits_every_item_once() -> None:
    visited = [index for step in range(10) for index in step_indices(7, step, 3, 10)]
    for epoch in range(3):
        assert sorted(visited[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert visited[:10] != visited[10:20]
    assert list(epoch_order(0, 0, 10)) != list(epoch_order(1, 0, 10))
    assert step_indices(0, 0, 5, 2)[:2] != step_indices(0, 0, 5, 2)[2:3]


def test_noise_depends_on_seed_stream_step_and_slot() -> None:
    draws = {tuple(torch.randn(3, generator=item_generator(*key)).tolist())
             for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]}  # fmt: skip
    assert len(draws) == 5
    same = [torch.randn(3, generator=item_generator(0, 0, 4, 2)) for _ in range(2)]
    assert torch.equal(same[0], same[1])


def test_a_scoped_seed_leaves_the_callers_random_state() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    with scoped_seed(8):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), wanted)
    with scoped_seed(8):
        assert torch.equal(torch.rand(2), inside)

"""The adapter's work outside the loop: bounded in memory, and the same as in one batch."""

from dataclasses import replace

import pytest
import torch

from ccella.pipeline.footprint import count_peak
from ccella.zoo.families.ccella.conditioning import TIMESTEPS_AT_ONCE, Conditions, prepare

STEPS = list(range(999, -1, -5))


@pytest.fixture(scope="module")
def card(tiny_model):
    from ccella.zoo.card import read_card

    return read_card(tiny_model / "card.toml")


@pytest.fixture(scope="module")
def denoiser(card):
    from ccella.zoo.loading import load_part

    return load_part(card, "denoiser", device=torch.device("cpu"))


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CONDITIONS = [
    Conditions(draw(5, 16, seed=0), False, None, (2.0, 2.0, 4.0)),
    Conditions(draw(9, 16, seed=1), False, 1, (1.0, 1.5, 3.0)),
]
NULL = draw(1, 16, seed=2)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@torch.no_grad()
def test_a_long_table_gives_what_one_batch_gives(card, denoiser, guidance):
    z = draw(2, *card.latent_shape, seed=3)
    plan = prepare(card, denoiser, CONDITIONS, timesteps=STEPS, guidance_scales=[guidance] * len(STEPS), null_text=NULL)
    assert len(STEPS) > 3 * TIMESTEPS_AT_ONCE
    probabilities = []
    for step in (0, 63, 64, 130, len(STEPS) - 1):
        found = plan.predict(z, step)
        # Independently: each item by itself, at this timestep alone.
        for place, item in enumerate(CONDITIONS):
            t = torch.tensor([STEPS[step]])
            given = None if item.class_label is None else torch.tensor([[0.0, 100.0]])
            arguments = (torch.tensor([item.spacing_mm]), given)
            expected, _ = denoiser(z[place : place + 1], t, item.text[None], None, *arguments)
            if guidance != 1.0:
                null, _ = denoiser(z[place : place + 1], t, NULL[None], None, torch.tensor([item.spacing_mm]))
                expected = null + guidance * (expected - null)
            torch.testing.assert_close(found[place : place + 1], expected, rtol=1e-4, atol=1e-5)
    for item in CONDITIONS:
        _, logits = denoiser.ella(item.text[None], None, torch.tensor(STEPS))
        probabilities.append(logits.softmax(-1)[:, 1].mean())
    torch.testing.assert_close(plan.class_probability, torch.stack(probabilities))


@torch.no_grad()
def test_guidance_at_some_timesteps_alone(card, denoiser):
    steps, z = STEPS[:4], draw(2, *card.latent_shape, seed=3)

    def plan(scales):
        return prepare(card, denoiser, CONDITIONS, timesteps=steps, guidance_scales=scales, null_text=NULL)

    batches: list[int] = []
    handle = denoiser.unet.register_forward_hook(lambda module, args, output: batches.append(len(args[0])))
    mixed = plan([1.0, 2.5, 2.5, 1.0])
    found = [mixed.predict(z, step) for step in range(4)]
    handle.remove()
    # A timestep without guidance costs one branch, not two.
    assert batches == [2, 4, 4, 2]
    for step, scale in enumerate([1.0, 2.5, 2.5, 1.0]):
        torch.testing.assert_close(found[step], plan([scale] * 4).predict(z, step), rtol=0, atol=0)


@torch.no_grad()
def test_memory_does_not_grow_with_the_timestep_table(card, denoiser):
    def peak(steps):
        scales = [2.0] * steps
        plan = prepare(card, denoiser, CONDITIONS, timesteps=STEPS[:steps], guidance_scales=scales, null_text=NULL)
        return count_peak(plan.run_adapter, known=list(denoiser.parameters()))

    one, three = peak(TIMESTEPS_AT_ONCE), peak(3 * TIMESTEPS_AT_ONCE)
    assert peak(TIMESTEPS_AT_ONCE // 2) < 0.6 * one
    assert three < 1.01 * one + 1000


@torch.no_grad()
def test_the_loop_runs_the_adapter_once_for_each_timestep(card, denoiser):
    seen: list[int] = []
    handle = denoiser.ella.register_forward_hook(lambda module, args, output: seen.extend(args[2].tolist()))
    scales = [1.0] * len(STEPS)
    plan = prepare(card, denoiser, CONDITIONS[:1], timesteps=STEPS, guidance_scales=scales, null_text=NULL)
    z = draw(1, *card.latent_shape, seed=3)
    for step in range(len(STEPS)):
        plan.predict(z, step)
    assert plan.class_probability.shape == (1,)
    handle.remove()
    assert seen == STEPS


@torch.no_grad()
def count_adapted(denoiser, run):
    """Timesteps that go through the adapter while `run` works, call by call."""
    calls: list[int] = []
    handle = denoiser.ella.register_forward_hook(lambda module, args, output: calls.append(len(args[2])))
    run()
    handle.remove()
    return calls


def test_items_of_one_report_share_the_adapters_work(card, denoiser):
    one, other = CONDITIONS
    items = [one, replace(one, class_label=0), other, replace(one, spacing_mm=(1.0, 1.0, 1.0))]
    z = draw(4, *card.latent_shape, seed=3)
    options = {"timesteps": STEPS[:3], "guidance_scales": [2.0] * 3, "null_text": NULL}
    results: list[torch.Tensor] = []

    def run(conditions):
        plan = prepare(card, denoiser, conditions, **options)
        results.extend((plan.predict(z, 1), plan.class_probability))

    # Two reports and the empty one, though three items see the first and all see the last.
    assert count_adapted(denoiser, lambda: run(items)) == [3, 3, 3]
    apart = [replace(item, text=item.text.clone()) for item in items]
    assert count_adapted(denoiser, lambda: run(apart)) == [3] * 5
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_the_next_batch_takes_over_what_is_the_same(card, denoiser):
    z = draw(1, *card.latent_shape, seed=3)
    options = {"guidance_scales": [2.0] * 3, "null_text": NULL}
    plans, results = [], []

    def run(item, steps):
        plan = prepare(card, denoiser, [item], timesteps=steps, former=plans[-1] if plans else None, **options)
        plans.append(plan)
        results.append(plan.predict(z, 0))

    one, other = CONDITIONS
    assert count_adapted(denoiser, lambda: run(one, STEPS[:3])) == [3, 3]
    assert count_adapted(denoiser, lambda: run(one, STEPS[:3])) == []
    assert count_adapted(denoiser, lambda: run(other, STEPS[:3])) == [3]
    # The report before was let go; another table is other work.
    assert count_adapted(denoiser, lambda: run(one, STEPS[:3])) == [3]
    assert count_adapted(denoiser, lambda: run(one, STEPS[:4])) == [4, 4]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[3])
    # What is measured is the work, not what was kept of it.
    assert count_adapted(denoiser, plans[-1].run_adapter) == [4, 4]

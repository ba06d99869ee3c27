"""What a caller of `sample` may rely on, whatever the network."""

import pytest
import torch

from ccella.diffusion.noise import ancestral_generator, draw_noise
from ccella.diffusion.samplers import SAMPLERS, is_stochastic, sample
from ccella.diffusion.schedule import NoiseSchedule
from ccella.diffusion.timesteps import timestep_table

IRREGULAR = (990, 871, 500, 333, 90, 7)
DETERMINISTIC = ("ddim", "dpmsolver++", "unipc")


def paper_schedule(prediction="epsilon"):
    return NoiseSchedule(1000, "scaled_linear", 0.0015, 0.0195, prediction)


def stand_in_network(z, i):
    return torch.tanh(z) * (0.5 + 0.1 * i)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("axes", [(4,), (2, 5), (4, 3, 4, 2)])
def test_an_item_is_the_same_alone_and_in_a_batch(sampler, axes):
    schedule, table = paper_schedule("v_prediction"), timestep_table(1000, 12)

    def run(seeds):
        return sample(
            stand_in_network,
            torch.stack([draw_noise(seed, axes) for seed in seeds]),
            schedule=schedule,
            sampler=sampler,
            timesteps=table,
            generators=[ancestral_generator(seed) for seed in seeds],
        )

    seeds = [0, 1, 2, 40, 7]
    batch = run(seeds)
    for row, seed in enumerate(seeds):
        torch.testing.assert_close(batch[row], run([seed])[0], atol=1e-6, rtol=0)
    assert torch.equal(batch, run(seeds))
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_single_step_lands_on_the_predicted_clean_latent(sampler):
    schedule = paper_schedule("sample")
    clean = torch.full((1, 3), 0.25)
    result = sample(
        lambda z, i: clean,
        draw_noise(0, (1, 3)),
        schedule=schedule,
        sampler=sampler,
        timesteps=[999],
        generators=[ancestral_generator(0)],
    )
    torch.testing.assert_close(result, clean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_are_counted_once_each_in_order(sampler):
    seen, done = [], []

    def predict(z, i):
        seen.append(i)
        return torch.zeros_like(z)

    sample(
        predict,
        torch.ones(1, 2),
        schedule=paper_schedule(),
        sampler=sampler,
        timesteps=IRREGULAR,
        generators=[ancestral_generator(0)],
        callback=done.append,
    )
    assert seen == done == list(range(len(IRREGULAR)))


def test_large_latents_are_not_clipped():
    for sampler in DETERMINISTIC:
        result = sample(
            lambda z, i: torch.full_like(z, 40.0),
            torch.zeros(1, 2),
            schedule=paper_schedule("sample"),
            sampler=sampler,
            timesteps=timestep_table(1000, 10),
        )
        torch.testing.assert_close(result, torch.full((1, 2), 40.0))


def test_half_precision_network_leaves_latents_in_float32():
    kinds = []

    def predict(z, i):
        kinds.append(z.dtype)
        return z.to(torch.bfloat16)

    noise = torch.ones(1, 2, dtype=torch.bfloat16)
    result = sample(predict, noise, schedule=paper_schedule(), sampler="ddim", timesteps=IRREGULAR)
    assert {*kinds, result.dtype} == {torch.float32}


def run_with(**changes):
    arguments = {"schedule": paper_schedule(), "sampler": "ddim", "timesteps": IRREGULAR, **changes}
    predict = arguments.pop("predict", lambda z, i: z)
    return sample(predict, arguments.pop("noise", torch.ones(2, 3)), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "heun"}, "'heun' is unknown"),
        ({"sampler": "ddpm"}, "needs 2 generators, one per item, got none"),
        ({"sampler": "ddpm", "generators": [ancestral_generator(0)]}, "needs 2 generators, one per item, got 1"),
        ({"eta": 0.5}, "needs 2 generators"),
        ({"eta": 1.5}, "got 1.5"),
        ({"sampler": "unipc", "eta": 0.5}, "Only the sampler 'ddim' takes eta"),
        ({"timesteps": []}, "at least one timestep"),
        ({"timesteps": [3, 5]}, "strictly descending"),
        ({"timesteps": [1000]}, "within 0"),
        ({"noise": torch.ones(3)}, "batch and a channel axis"),
        ({"predict": lambda z, i: z[:1]}, r"shape \(1, 3\) for latents of shape \(2, 3\) at step 0"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run_with(**changes)


def test_is_stochastic():
    assert [is_stochastic(name) for name in SAMPLERS] == [True, False, False, False]
    assert is_stochastic("ddim", 0.1)

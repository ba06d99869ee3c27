"""How a run samples: the card's defaults and the user's wishes."""

from dataclasses import replace

import pytest

from ccella.imaging.errors import InputError
from ccella.pipeline.sampler_settings import choose_settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "heun"}, "'heun' is unknown"),
        ({"sampler": "euler"}, "not a rectified flow"),
        ({"steps": 0}, "between 1 and 1000"),
        ({"steps": 1001}, "between 1 and 1000"),
        ({"sampler": "unipc", "eta": 0.5}, "Only the sampler 'ddim' takes eta"),
        ({"eta": 1.5}, "within 0 .. 1"),
        ({"guidance_scale": -1.0}, "Guidance scale -1.0"),
        ({"guidance_scale": float("nan")}, "Guidance scale nan"),
        ({"timesteps": [10, 20]}, "strictly descending"),
        ({"timesteps": [10], "steps": 2}, "2 steps do not go with a table of 1"),
        ({"batch_size": 0}, "Batch size 0"),
    ],
)
def test_settings_out_of_range_are_named(stages, options, message):
    with pytest.raises(InputError, match=message):
        choose_settings(stages.card, **options)


def test_settings_come_from_the_card_unless_given(stages):
    card = stages.card.with_generation(sampler=replace(stages.card.sampler, timesteps=(900, 500, 100), eta=0.3))
    assert choose_settings(card).timesteps == (900, 500, 100)
    assert choose_settings(card).eta == 0.3
    assert choose_settings(card, steps=2).timesteps == (999, 0)
    # The card's eta speaks of the card's sampler.
    assert choose_settings(card, sampler="dpmsolver++").eta == 0.0

"""How a run samples: the card's defaults and the user's wishes."""

from dataclasses import replace

import pytest

from ccella.imaging.errors import InputError
from ccella.pipeline.sampler_settings import choose_settings
from ccella.zoo.generation import Preset, SamplerDefaults


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
        ({"guidance_scale": 2.0, "guidance_interval": [500, 100]}, "Guidance interval"),
        ({"guidance_scale": 2.0, "guidance_interval": [0, 1000]}, "Guidance interval"),
        ({"guidance_scale": 1.0, "guidance_interval": [0, 500]}, "no guidance, which has no interval"),
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


def test_a_preset_stands_in_for_the_cards_defaults_and_is_overruled_by_name(stages):
    fast = Preset(SamplerDefaults("unipc", 2, 3.0, 0.0, (999, 400)), {})
    card = replace(stages.card, generation=replace(stages.card.generation, presets={"fast": fast}))
    chosen = choose_settings(card, preset="fast")
    assert (chosen.sampler, chosen.timesteps, chosen.guidance_scale) == ("unipc", (999, 400), 3.0)
    assert choose_settings(card).sampler == "ddim"
    assert choose_settings(card, preset="fast", sampler="ddim").timesteps == (999, 400)
    assert choose_settings(card, preset="fast", steps=3).timesteps == (999, 250, 0)
    assert choose_settings(card, preset="fast", guidance_scale=1.0).guidance_scale == 1.0
    with pytest.raises(InputError, match="no preset 'quick'") as caught:
        choose_settings(card, preset="quick")
    assert caught.value.remedy == "Its presets are: fast."
    with pytest.raises(InputError, match="no preset 'fast'"):
        choose_settings(stages.card, preset="fast")


def test_guidance_in_an_interval_of_the_timesteps(stages):
    card = stages.card.with_generation(
        sampler=replace(stages.card.sampler, timesteps=None, steps=4, guidance_scale=2.0, guidance_interval=(400, 999))
    )
    chosen = choose_settings(card, timesteps=[999, 400, 399, 0])
    assert chosen.guidance_scales == (2.0, 2.0, 1.0, 1.0)
    assert chosen.guidance_words == "guidance 2 at timesteps 400 to 999"
    assert chosen.kinds_of_step == {"step": [0, 1], "step without guidance": [2, 3]}
    assert chosen.entry()["guidance_interval"] == [400, 999]
    # Another scale goes with the card's interval, another interval with the card's scale.
    assert choose_settings(card, timesteps=[999, 399], guidance_scale=3.0).guidance_scales == (3.0, 1.0)
    assert choose_settings(card, timesteps=[999, 399], guidance_interval=(0, 999)).guidance_scales == (2.0, 2.0)
    off = choose_settings(card, guidance_scale=1.0)
    assert (off.guidance_interval, list(off.kinds_of_step)) == (None, ["step"])

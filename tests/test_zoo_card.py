import tomllib

import pytest

from ccella.zoo.card import parse_card, read_card
from ccella.zoo.errors import CardError
from ccella.zoo.forward import choose_timesteps
from ccella.zoo.registry import availability, list_cards

CARDS = {card.id: card for card in list_cards()}
BUNDLED = CARDS["ccella-pp/phantom"].directory / "card.toml"


def document():
    return tomllib.loads(BUNDLED.read_text(encoding="utf-8"))


def failure(changed):
    with pytest.raises(CardError) as caught:
        parse_card(changed, BUNDLED)
    assert caught.value.remedy
    return str(caught.value)


def test_the_zoo_has_the_published_models_and_the_bundled_one():
    assert list(CARDS) == ["ccella", "ccella-pp", "ccella-pp/phantom", "classifier", "classifier/phantom"]


@pytest.mark.parametrize(("model", "channels"), [("ccella", 4), ("ccella-pp", 12)])
def test_published_numbers(model, channels):
    """Image grid, latent grid and noise schedule as in the paper's methods."""
    card = CARDS[model]
    assert card.image.shape == (256, 256, 128)
    assert card.image.spacing_mm == (0.5, 0.5, 0.5)
    assert card.latent_shape == (channels, 64, 64, 32)
    assert (card.schedule.train_timesteps, card.schedule.beta_start, card.schedule.beta_end) == (1000, 0.0015, 0.0195)
    assert (card.schedule.beta_schedule, card.schedule.prediction) == ("scaled_linear", "epsilon")
    assert (card.sampler.name, card.sampler.steps) == ("ddpm", 1000)
    assert availability(card) == "train or import: autoencoder, denoiser"


def test_adc_is_in_square_micrometres_per_second():
    adc = CARDS["ccella-pp"].image.channels[2]
    assert (adc.name, adc.unit, adc.intensity["upper"]) == ("adc", "1e-6 mm2/s", 3000.0)


def test_full_and_small_models_share_every_key():
    """One code path: the bundled card differs from the published one in numbers only."""
    full, small = CARDS["ccella-pp"].parts, CARDS["ccella-pp/phantom"].parts
    assert full.keys() == small.keys()
    for name in ("autoencoder", "denoiser"):
        assert full[name].architecture == small[name].architecture
        assert full[name].config.keys() == small[name].config.keys()


def test_unknown_key_names_the_nearest():
    changed = document()
    changed["image"]["spacing"] = [1, 1, 1]
    assert "unknown key image.spacing" in failure(changed)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("image", "shape", [64, 64]),
        ("image", "shape", [64, 64, "32"]),
        ("image", "spacing_mm", [1.5, 1.5, 0.0]),
        ("image", "axes", "zyx"),
        ("latent", "downsample", 5),
        ("latent", "scale", [1.0, 2.0]),
        ("schedule", "prediction", "noise"),
        ("schedule", "train_timesteps", 0),
        ("sampler", "name", "heun"),
        ("sampler", "steps", True),
    ],
)
def test_a_wrong_value_is_named(table, key, value):
    changed = document()
    changed[table][key] = value
    message = failure(changed)
    assert str(BUNDLED) in message
    assert f"{table}.{key}" in message
    assert repr(value) in message


def test_timesteps_must_match_the_steps():
    changed = document()
    changed["sampler"] |= {"steps": 3, "timesteps": [999, 500]}
    assert "sampler.timesteps" in failure(changed)
    changed["sampler"]["timesteps"] = [999, 500, 1]
    assert parse_card(changed, BUNDLED).sampler.timesteps == (999, 500, 1)


@pytest.mark.parametrize("model", ["ccella", "ccella-pp", "ccella-pp/phantom"])
def test_every_model_has_the_three_presets_and_paper_is_the_paper(model):
    presets = CARDS[model].presets
    assert list(presets) == ["fast", "balanced", "paper"]
    paper = presets["paper"].sampler
    assert (paper.name, paper.steps, paper.guidance_scale, paper.last_timestep) == ("ddpm", 1000, 1.0, 0)
    steps = [preset.sampler.steps for preset in presets.values()]
    assert steps == sorted(set(steps))


def test_a_preset_has_the_models_guidance_its_own_table_and_its_figures():
    changed = document()
    changed["sampler"]["guidance_scale"] = 2.5
    changed["presets"] = {
        "four": {"sampler": "unipc", "steps": 2, "timesteps": [999, 400], "measured": {"kid": 0.0123}},
        "plain": {"sampler": "ddim", "steps": 7, "guidance_scale": 1.0},
    }
    presets = parse_card(changed, BUNDLED).presets
    assert presets["four"].sampler.timesteps == (999, 400)
    assert presets["four"].sampler.guidance_scale == 2.5
    assert presets["four"].measured == {"kid": 0.0123}
    assert presets["plain"].sampler.guidance_scale == 1.0


def test_a_preset_guides_the_timesteps_of_the_model_unless_it_names_its_own():
    changed = document()
    changed["sampler"] = {"name": "ddpm", "steps": 24, "guidance_scale": 2.0, "guidance_interval": [400, 999]}
    changed["presets"] = {
        "same": {"sampler": "ddpm", "steps": 8},
        "own": {"sampler": "ddpm", "steps": 8, "guidance_interval": [100, 800]},
    }
    card = parse_card(changed, BUNDLED)
    assert card.sampler.guidance_interval == (400, 999)
    assert {name: preset.sampler.guidance_interval for name, preset in card.presets.items()} == {
        "same": (400, 999),
        "own": (100, 800),
    }


def test_tables_of_other_numbers_of_steps_end_at_the_last_timestep():
    changed = document()
    changed["sampler"] = {"name": "ddpm", "steps": 24, "last_timestep": 44}
    changed["presets"] = {"whole": {"sampler": "ddpm", "steps": 1000, "last_timestep": 0}}
    card = parse_card(changed, BUNDLED)
    assert choose_timesteps(card, card.sampler, 8) == (999, 786, 599, 437, 301, 190, 104, 44)
    assert choose_timesteps(card, card.presets["whole"].sampler, 1000) == tuple(range(999, -1, -1))
    changed["presets"]["whole"].pop("last_timestep")
    assert "presets.whole.last_timestep" in failure(changed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampler", "heun"),
        ("steps", 0),
        ("steps", 1001),
        ("timesteps", [9, 8]),
        ("last_timestep", -1),
        ("guidance_interval", [500, 400]),
        ("guidance_interval", [0, 1000]),
        ("guidance_interval", [44]),
        ("measured", 0.5),
    ],
)
def test_a_wrong_value_of_a_preset_is_named(key, value):
    changed = document()
    changed["presets"]["fast"][key] = value
    message = failure(changed)
    assert f"presets.fast.{key}" in message
    assert repr(value) in message
    changed = document()
    changed["presets"]["fast"]["step"] = 4
    assert "unknown key presets.fast.step" in failure(changed)


@pytest.mark.parametrize(
    "file",
    [
        {"path": "../outside.safetensors", "sha256": "unpinned"},
        {"path": "/etc/passwd", "sha256": "unpinned"},
        {"path": "a.safetensors", "sha256": "abc"},
        {"path": "a.safetensors", "sha256": "unpinned", "repo": "o/r", "revision": "main"},
    ],
)
def test_files_stay_inside_and_are_pinned(file):
    changed = document()
    changed["parts"]["autoencoder"]["files"] = [file]
    assert "parts.autoencoder.files[0]" in failure(changed)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(CardError, match="no card"):
        read_card(tmp_path / "card.toml")
    (tmp_path / "card.toml").write_text("schema = \n", encoding="utf-8")
    with pytest.raises(CardError, match="not valid TOML"):
        read_card(tmp_path / "card.toml")

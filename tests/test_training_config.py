"""Options: defaults, layers, refusals, and the file that a run leaves behind."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from ccella.diffusion.densities import DENSITIES
from ccella.diffusion.losses import DENOISING_LOSSES
from ccella.imaging.errors import InputError
from ccella.training import config
from ccella.training.config import (
    AutoencoderTraining,
    DenoiserTraining,
    differing_options,
    plain_options,
    resolve_options,
    write_config,
)
from ccella.zoo.registry import list_cards

KINDS = {"autoencoder": AutoencoderTraining, "denoiser": DenoiserTraining}


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("steps = 20\nlearning_rate = 1\n", encoding="utf-8")
    card = {"steps": 10, "batch_size": 3, "learning_rate": 0.5, "class_weight": 0.25}
    options = resolve_options(DenoiserTraining, "denoiser", card, {"steps": 30, "batch_size": None}, file)
    assert (options.steps, options.batch_size, options.learning_rate, options.class_weight) == (30, 3, 1.0, 0.25)
    assert isinstance(options.learning_rate, float)
    assert options.seed == 0


def test_a_file_may_hold_the_tables_of_several_stages(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text("[autoencoder]\nkl_weight = 0.5\n[denoiser]\nloss = 'l1'\n", encoding="utf-8")
    assert resolve_options(AutoencoderTraining, "autoencoder", {}, {}, file).kl_weight == 0.5
    assert resolve_options(DenoiserTraining, "denoiser", {}, {}, file).loss == "l1"
    file.write_text("steps = 3\n[denoiser]\nloss = 'l1'\n", encoding="utf-8")
    with pytest.raises(InputError, match="steps stands beside"):
        resolve_options(DenoiserTraining, "denoiser", {}, {}, file)
    file.write_text("[autoencoder]\nsteps = 3\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no table \[denoiser\]"):
        resolve_options(DenoiserTraining, "denoiser", {}, {}, file)


def test_an_unknown_option_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'learning_rat' in the card's \[training.denoiser\]") as caught:
        resolve_options(DenoiserTraining, "denoiser", {"learning_rat": 1e-3})
    assert caught.value.remedy == "Did you mean learning_rate?"
    file = tmp_path / "bad.toml"
    file.write_text("kl_weigth = 1.0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.toml") as caught:
        resolve_options(AutoencoderTraining, "autoencoder", {}, {}, file)
    assert "kl_weight" in caught.value.remedy
    with pytest.raises(InputError, match="kl_weight"):
        resolve_options(DenoiserTraining, "denoiser", {"kl_weight": 1.0})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("steps", 0, "at least 1"),
        ("steps", 2.5, "whole number"),
        ("steps", True, "whole number"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "a number"),
        ("learning_rate", "fast", "a number"),
        ("condition_dropout", 1.5, "at most 1"),
        ("precision", "fp8", "auto, fp32, bf16"),
        ("channels_last", 1, "true or false"),
        ("channel_weights", 1.0, "array"),
        ("channel_weights", [1.0, -1.0], "above 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object, remedy: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        resolve_options(DenoiserTraining, "denoiser", {name: value})
    assert remedy in caught.value.remedy


def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        resolve_options(DenoiserTraining, "denoiser", {}, {}, tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3", encoding="utf-8")
    with pytest.raises(InputError, match="not valid TOML"):
        resolve_options(DenoiserTraining, "denoiser", {}, {}, tmp_path / "broken.toml")


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(InputError, match="batch of 8 items cannot be split into 3"):
        resolve_options(DenoiserTraining, "denoiser", {"batch_size": 8, "accumulate": 3})


@pytest.mark.parametrize("stage", KINDS)
def test_the_saved_config_gives_the_same_options_back(stage: str, tmp_path: Path) -> None:
    special = (
        {"seed": 7, "steps": 11, "flip_axes": ["x", "y"]} if stage == "autoencoder" else {"channel_weights": [2, 1]}
    )
    options = resolve_options(KINDS[stage], stage, {}, special)
    write_config(tmp_path / "config.toml", stage, options)
    assert resolve_options(KINDS[stage], stage, {}, {}, tmp_path / "config.toml") == options
    table = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))[stage]
    assert set(table) == {item.name for item in fields(KINDS[stage])}


def test_differing_options_ignore_how_a_run_is_watched() -> None:
    old = plain_options(DenoiserTraining(steps=10))
    assert differing_options(old, plain_options(DenoiserTraining(steps=10, log_every=1, keep_checkpoints=9))) == []
    assert differing_options(old, plain_options(DenoiserTraining(steps=11, loss="l1"))) == ["loss", "steps"]


@pytest.mark.parametrize("stage", KINDS)
def test_every_option_is_explained(stage: str) -> None:
    text = (KINDS[stage].__doc__ or "") + (config.LoopTraining.__doc__ or "")
    assert [item.name for item in fields(KINDS[stage]) if f"\n        {item.name}: " not in text] == []


def test_choices_are_those_of_the_diffusion_room() -> None:
    assert config.DENSITIES == DENSITIES
    assert set(config.LOSSES) == set(DENOISING_LOSSES)


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.id)
def test_the_zoos_recipes_resolve(card: object) -> None:
    for stage, table in card.training.items():  # type: ignore[attr-defined]
        if stage in KINDS:
            resolve_options(KINDS[stage], stage, table)

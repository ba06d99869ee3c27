"""Published recipes by name, recipes in files, and what they may change."""

import os
from pathlib import Path

import pytest

from ccella.imaging.errors import InputError
from ccella.training.config import DenoiserTraining, resolve_options, settle_length
from ccella.training.recipes import FOLDER, STAGES, apply_recipe, recipe_names
from ccella.zoo.registry import find_card

# The eight ablations of the first paper: what each changes of the network, and whether the class head is rewarded.
ABLATIONS = {
    "ccella-shared-head": ({"class_head": "shared"}, 1e-2),
    "ccella-first-head": ({"class_head": "first"}, 1e-2),
    "ccella-last-head": ({"class_head": "last"}, 1e-2),
    "ccella-no-class-loss": ({}, 0.0),
    "ccella-true-class": ({"class_input": "given"}, 1e-2),
    "ccella-text-only": ({"class_input": "none"}, 0.0),
    "ccella-class-only": ({"text_context": False}, 1e-2),
    "ccella-spacing-only": ({"class_input": "none", "text_context": False}, 0.0),
}


def resolve(name: object, **explicit: object) -> DenoiserTraining:
    return resolve_options(DenoiserTraining, "denoiser", {}, explicit, str(name))


@pytest.mark.parametrize(("name", "steps"), [("ccella", 44150), ("ccella-pp", 88300)])
def test_the_papers_recipes(name: str, steps: int) -> None:
    options = resolve(name)
    assert (options.loss, options.timestep_density, options.class_weight) == ("l1", "uniform", 1e-2)
    assert (options.lr_schedule, options.lr_power, options.clip_norm) == ("polynomial", 2.0, 1.0)
    # 400 and 800 epochs of 3532 exams, batch 8 on each of 4 GPUs.
    assert settle_length(options, 3532).steps == steps


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_the_first_papers_recipe_but_for_one_thing(name: str) -> None:
    changes, weight = ABLATIONS[name]
    plain = resolve("ccella")
    assert resolve(name) == resolve_options(DenoiserTraining, "denoiser", {}, {"class_weight": weight}, "ccella")
    assert plain.class_weight == 1e-2
    card = find_card("ccella")
    config = dict(apply_recipe(card, name).part("denoiser").config)
    config |= {"class_head": config["adapter"]["class_head"]}
    before = {**card.part("denoiser").config, "class_head": "each"}
    changed = {key for key in config if config[key] != before.get(key)} - {"adapter"}
    assert {key: config[key] for key in changed} == changes
    assert apply_recipe(card, name).id == card.id


def test_every_file_of_the_folder_is_an_ablation() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(ABLATIONS)
    assert set(ABLATIONS) | {"ccella", "ccella-pp", "ccella-pp/phantom"} <= set(recipe_names())


def test_a_recipe_can_build_on_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "ccella-pp"\nlearning_rate = 5e-5\nsteps = 7\n', encoding="utf-8")
    options = resolve(file)
    # Its length in steps replaces the base's in epochs.
    assert (options.learning_rate, options.loss, options.steps, options.epochs) == (5e-5, "l1", 7, 0.0)
    assert resolve(file, epochs=2.0).epochs == 2.0
    file.write_text(f'base = "{file}"\n', encoding="utf-8")
    with pytest.raises(InputError, match="based on itself"):
        resolve(file)
    file.write_text("base = 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="base is 3"):
        resolve(file)


def test_changes_of_the_model_stand_beside_the_stages(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model.schedule]\nprediction = 'v_prediction'\n[denoiser]\nloss = 'mse'\n", encoding="utf-8")
    card = find_card("ccella")
    assert apply_recipe(card, str(file)).schedule.prediction == "v_prediction"
    assert card.schedule.prediction == "epsilon"
    assert resolve(file).loss == "mse"
    file.write_text("[model]\nparts = 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="changes parts"):
        apply_recipe(card, str(file))
    assert resolve(file) == DenoiserTraining()


def test_a_name_that_is_none_or_two_things_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no recipe 'ccella-text-onyl'") as caught:
        resolve("ccella-text-onyl")
    assert caught.value.remedy == "Did you mean ccella-text-only?"
    monkeypatch.chdir(tmp_path)
    Path("ccella").write_text("steps = 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="published recipe or the file") as caught:
        resolve("ccella")
    assert "./ccella" in caught.value.remedy
    assert resolve(f".{os.sep}ccella").steps == 3


def test_a_misspelt_table_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for others in ("", "[autoencoder]\nsteps = 3\n"):
        file.write_text(f"{others}[denoizer]\nlearning_rate = 1e-3\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"unknown table \[denoizer\]") as caught:
            resolve(file)
        assert caught.value.remedy == "Did you mean [denoiser]?"


def test_steps_and_epochs_together_are_refused() -> None:
    with pytest.raises(InputError, match="Both steps and epochs"):
        resolve("ccella", steps=3, epochs=1.0)


def test_the_stages_are_those_that_cards_know() -> None:
    for name in ("ccella", "ccella-pp", "ccella-pp/phantom"):
        assert set(find_card(name).training) <= set(STAGES)

"""Denoisers that are given the class learn from exams whose class is known, and from no others."""

import copy
import json
from pathlib import Path

import pytest
import torch
from support.small_denoiser import SHAPE, make_task, small_card, write_latents

from ccella.imaging.errors import InputError
from ccella.zoo.card import Card, parse_card


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    template = small_card(tmp_path_factory.mktemp("card"))
    document = copy.deepcopy(dict(template.document))
    document["parts"]["denoiser"]["config"]["class_input"] = "given"
    return parse_card(document, template.directory / "card.toml")


def test_exams_of_unknown_class_are_left_out(card: Card, tmp_path: Path) -> None:
    task = make_task(card, write_latents(tmp_path / "latents", SHAPE), validation_fraction=0.0)
    assert sorted(task.ids) == ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e9"]
    assert task.unlabelled == 1
    drawn = [task.draw(index, torch.Generator().manual_seed(index)) for index in range(9)]
    assert {int(item["class_label"]) for item in drawn} == {0, 1}
    loss, _ = task.objective(task.collate(drawn), 0)
    assert bool(torch.isfinite(loss))


def test_a_predicted_class_needs_no_label(tmp_path: Path) -> None:
    task = make_task(small_card(tmp_path), write_latents(tmp_path / "latents", SHAPE), validation_fraction=0.0)
    assert len(task.ids) == 10
    assert task.unlabelled == 0


def test_exams_without_any_class_are_refused(card: Card, tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents", SHAPE)
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) | {"class": None} for line in manifest.read_text(encoding="utf-8").splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match="None of the 10 exams to train on has a class"):
        make_task(card, folder, validation_fraction=0.0)

"""Classes that prompts ask for, against what a model takes, predicts or needs."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.tiny_model import CARD

from ccella.cli.main import run
from ccella.imaging.errors import InputError
from ccella.pipeline.conditions import check_conditions
from ccella.pipeline.prompts import PromptItem
from ccella.zoo.card import parse_card
from ccella.zoo.folder import write_card


def document(class_input: str, **changes: Any) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(CARD) | changes
    changed["parts"]["denoiser"]["config"]["class_input"] = class_input
    return changed


@pytest.mark.parametrize(
    ("class_input", "label", "words"),
    [
        ("predicted", None, None),
        ("predicted", 1, None),
        ("predicted", 2, "asks for class 2"),
        ("given", None, "has no class"),
        ("given", 0, None),
        ("none", None, None),
        ("none", 1, "does not take"),
    ],
)
def test_a_class_fits_the_model_or_is_refused(class_input: str, label: int | None, words: str | None) -> None:
    card = parse_card(document(class_input), Path("card.toml"))
    items = [PromptItem("a", "text", class_label=label)]
    if words is None:
        check_conditions(items, card)
        return
    with pytest.raises(InputError, match=words):
        check_conditions(items, card)


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((1.5, 1.5), "2 values for the axes 'xyz'"),
        ((1e-30, 1.0, 1.0), "is that of no volume"),
        ((1.0, 1.0, 1e4), "no volume"),
    ],
)
def test_a_spacing_fits_the_model_or_is_refused(spacing: tuple[float, ...], words: str) -> None:
    card = parse_card(copy.deepcopy(CARD), Path("card.toml"))
    with pytest.raises(InputError, match=words):
        check_conditions([PromptItem("a", "text", spacing_mm=spacing)], card)
    check_conditions([PromptItem("a", "text", spacing_mm=(0.5, 0.5, 3.0))], card)


def test_a_model_without_the_condition_takes_no_class() -> None:
    card = parse_card(document("predicted", conditions=["text", "spacing"]), Path("card.toml"))
    with pytest.raises(InputError, match="does not take") as caught:
        check_conditions([PromptItem("a", "text", class_label=1)], card)
    assert caught.value.remedy == "Leave the class out."


@pytest.mark.parametrize(("class_input", "given"), [("given", []), ("none", ["--class", "1"])])
def test_sampling_refuses_before_it_writes(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], class_input: str, given: list[str]
) -> None:
    model, out, prompt = tmp_path / "model", tmp_path / "out", tmp_path / "report.txt"
    shutil.copytree(tiny_model, model)
    card = parse_card(document(class_input), tmp_path / "card.toml")
    parts = {name: {**part, "files": []} for name, part in card.document["parts"].items()}
    write_card(model / "card.toml", {**card.document, "parts": parts})
    prompt.write_text("Lesion left", encoding="utf-8")
    words = ["sample", "--model", str(model), "--prompt", str(prompt), "-o", str(out), *given]
    assert run(words) == 2
    assert "class" in capsys.readouterr().err
    assert not out.exists()

"""Model folders that several trainings fill: what each keeps, takes over from its template and leaves behind."""

import shutil
from pathlib import Path

import pytest
import torch

from ccella.cli.main import run
from ccella.training.config import DenoiserTraining
from ccella.training.export import export_model
from ccella.zoo.card import Card, read_card
from ccella.zoo.folder import write_card
from ccella.zoo.loading import part_digests
from ccella.zoo.registry import find_card

# A text encoder that trains in seconds, of the width that the tiny model's denoiser reads.
SMALL_ENCODER = [
    word
    for setting in ("width=16", "head_width=8", "heads=2", "hidden=16", "layers=1", "vocabulary=600",
                    "tokenizer_reports=40", "validation_items=40")
    for word in ("--set", setting)
]  # fmt: skip


def train(part: str, *words: object) -> None:
    small = ["--steps", "2", "--device", "cpu", "-q"]
    assert run(["train", part, *map(str, words), *small]) == 0


def folder_files(out: Path) -> dict[str, bytes]:
    """What makes a model folder: the card and every part, not the files of the runs."""
    paths = [path for path in out.rglob("*") if path.is_file() and "training" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if not path.name.startswith(".")}


def digests(card: Card, part: str) -> list[str]:
    return sorted(digest for name, digest in part_digests(card).items() if name.startswith(f"{part}/"))


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tiny_exams: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an autoencoder, a text encoder and a denoiser of its own, trained into one folder."""
    root = tmp_path_factory.mktemp("folders")
    train("autoencoder", tiny_exams, "--model", tiny_model, "-o", root / "model", "--batch-size", 2)
    train("text-encoder", "-o", root / "model", "--batch-size", 2, *SMALL_ENCODER)
    assert run(["encode", str(tiny_exams), "--model", str(root / "model"), "-o", str(root / "latents"), "-q"]) == 0
    train("denoiser", root / "latents", "--model", root / "model", "-o", root / "model", "--batch-size", 2)
    return root


def test_a_new_autoencoder_leaves_the_denoiser_of_the_old_one_behind(
    tiny_model: Path, tiny_exams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    command = ["train", "autoencoder", str(tiny_exams), "--model", str(tiny_model), "-o", str(out), "--device", "cpu"]
    assert run([*command, "--steps", "1", "--batch-size", "2"]) == 0
    assert "The denoiser of tiny/random goes with its own autoencoder" in capsys.readouterr().err
    template, card = read_card(tiny_model / "card.toml"), read_card(out / "card.toml")
    assert digests(card, "text_encoder") == digests(template, "text_encoder") != []
    assert digests(card, "autoencoder") != digests(template, "autoencoder")
    assert card.part("denoiser").files == ()
    assert card.latent.scale is None
    assert not (out / "denoiser.safetensors").exists()
    (tmp_path / "report.txt").write_text("Lesion left", encoding="utf-8")
    prompt = ["--prompt", str(tmp_path / "report.txt"), "-o", str(tmp_path / "out")]
    assert run(["sample", "--model", str(out), *prompt]) == 3
    error = capsys.readouterr().err
    assert "has no weights for its denoiser" in error
    assert "ccella train" in error
    assert not (tmp_path / "out").exists()


def test_every_part_is_the_one_trained_here(trained: Path, tiny_model: Path) -> None:
    template, card = read_card(tiny_model / "card.toml"), read_card(trained / "model" / "card.toml")
    for part in template.parts:
        assert digests(card, part) not in ([], digests(template, part))
        assert "hardware" in card.provenance[part]


def test_finished_runs_resumed_change_nothing(trained: Path, tiny_model: Path, tiny_exams: Path) -> None:
    model, before = trained / "model", folder_files(trained / "model")
    assert {"card.toml", "autoencoder.safetensors", "denoiser.safetensors"} < set(before)
    train("autoencoder", tiny_exams, "--model", tiny_model, "-o", model, "--batch-size", 2, "--resume")
    assert folder_files(model) == before
    train("text-encoder", "-o", model, "--batch-size", 2, "--resume", *SMALL_ENCODER)
    assert folder_files(model) == before
    train("denoiser", trained / "latents", "--model", model, "-o", model, "--batch-size", 2, "--resume")
    assert folder_files(model) == before


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The trained model without the files of its runs."""
    shutil.copytree(trained / "model", tmp_path / "copy", ignore=shutil.ignore_patterns("training"))
    return tmp_path / "copy"


def test_an_autoencoder_trained_again_drops_the_denoiser_there(
    copied: Path, tiny_exams: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_card(copied / "card.toml")
    assert before.latent.scale is not None
    assert {"autoencoder", "denoiser"} <= set(before.provenance)
    command = ["train", "autoencoder", str(tiny_exams), "--model", str(copied), "-o", str(copied), "--device", "cpu"]
    assert run([*command, "--finetune", "--steps", "1", "--batch-size", "2"]) == 0
    assert f"The denoiser in {copied} goes with the autoencoder there" in capsys.readouterr().err
    card = read_card(copied / "card.toml")
    assert card.part("denoiser").files == ()
    assert card.latent.scale is None
    assert "denoiser" not in card.provenance
    assert not [name for name in card.measured if name.startswith("denoiser")]
    assert digests(card, "text_encoder") == digests(before, "text_encoder")


def test_a_denoiser_is_not_put_beside_another_autoencoder_than_it_learnt_with(
    copied: Path, trained: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = folder_files(copied)
    words = [str(trained / "latents"), "--model", str(tiny_model), "-o", str(copied), "--device", "cpu"]
    assert run(["train", "denoiser", *words]) == 2
    assert f"{copied} has another autoencoder than model tiny/random" in capsys.readouterr().err
    assert folder_files(copied) == before


def test_a_model_trained_from_the_packages_does_not_say_what_that_one_saw(tmp_path: Path) -> None:
    template, options = find_card("ccella-pp/phantom"), DenoiserTraining()
    updates = {"provenance": {"denoiser": {"steps": 1}}}
    made = export_model(tmp_path, template, "denoiser", {"a": torch.zeros(2)}, options, updates=updates)
    assert "data" in template.provenance and "data" not in made.provenance
    assert made.provenance["denoiser"] == {"steps": 1}
    assert made.title == "Trained from ccella-pp/phantom"
    assert made.intended_use != template.intended_use and "test bench" not in made.description
    # Its owner's words stay, whatever is trained into the folder next and from which template.
    write_card(tmp_path / "card.toml", {**made.document, "title": "Our exams"})
    for card in (template, read_card(tmp_path / "card.toml")):
        again = export_model(tmp_path, card, "denoiser", {"a": torch.ones(2) * len(card.title)}, options, updates={})
        assert again.title == "Our exams" and "data" not in again.provenance

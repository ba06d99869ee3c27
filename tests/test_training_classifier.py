"""Training of a classifier: it learns, keeps the best validation, resumes exactly, refuses what cannot work."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from ccella.imaging.digests import digest_source, stamp_source
from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.imaging.standardisation import standardise_exam
from ccella.training.classifier import (
    ClassifierTask,
    ClassifierTraining,
    classifier_defaults,
    select_channels,
    train_classifier,
)
from ccella.training.classifier_data import LabelledImages, labelled_images
from ccella.training.config import resolve_options
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.errors import CardError
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card

SHAPE = (32, 32, 32)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": list(SHAPE), "spacing_mm": [1.0, 1.0, 1.0]}
    document["parts"]["classifier"]["config"] |= {"width": 0.1, "depth": 0.1, "dropout": 0.1}
    narrow = parse_card(document, tmp_path_factory.mktemp("card") / "card.toml")
    return select_channels(narrow, ["t2w", "adc"])


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> list[Exam]:
    """Noise, in which the positive exams have a dark ball in the ADC map."""
    folder = tmp_path_factory.mktemp("exams")
    found = []
    ball = np.linalg.norm(np.stack(np.indices(SHAPE)) - np.array([12, 18, 15])[:, None, None, None], axis=0) < 7
    for number in range(24):
        rng = np.random.default_rng(number)
        label, files = number % 2, {}
        for name in ("t2w", "adc"):
            data = 1000 + 300 * rng.random(SHAPE)
            if name == "adc" and label:
                data[ball] -= 600
            files[name] = folder / f"e{number:02}_{name}.nii"
            nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.eye(4)), files[name])
        found.append(Exam(f"e{number:02}", f"p{number:02}", files, label=label))
    return found


def options(card: Card, finetune: bool = False, **changes: Any) -> ClassifierTraining:
    base = {
        "steps": 20, "batch_size": 8, "learning_rate": 1e-2, "validate_every": 5, "checkpoint_every": 0,
        "device": "cpu", "max_translation": [2.0, 2.0, 2.0],
    }  # fmt: skip
    defaults = classifier_defaults(card, finetune=finetune)
    return resolve_options(ClassifierTraining, "classifier", defaults, base | changes)


@pytest.fixture(scope="module")
def trained(card: Card, exams: list[Exam], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "clf"
    train_classifier(card, exams[:16], exams[16:], out, options(card))
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_part(read_card(folder / "card.toml"), "classifier").state_dict())


def test_it_learns_what_the_classes_differ_in(trained: Path, exams: list[Exam]) -> None:
    card = read_card(trained / "card.toml")
    assert card.measured["validation"]["average_precision"] == 1.0
    assert card.provenance["classifier"]["data"]["positive"] == 8
    network = load_part(card, "classifier")
    with torch.no_grad():
        batch = torch.stack([torch.from_numpy(standardise_exam(exam, card.image)) for exam in exams[16:]])
        probabilities = network(batch).softmax(1)[:, 1].tolist()
    positive = [value for value, exam in zip(probabilities, exams[16:], strict=True) if exam.label]
    negative = [value for value, exam in zip(probabilities, exams[16:], strict=True) if not exam.label]
    assert min(positive) > max(negative)


def test_a_resumed_run_ends_with_the_same_weights(
    card: Card, exams: list[Exam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running statistics of the batch normalisation included."""
    chosen = options(card, steps=4, batch_size=4, validate_every=2, export_weights="last")
    train_classifier(card, exams[:8], exams[8:12], tmp_path / "whole", chosen)
    original = ClassifierTask.validate
    calls: list[int] = []

    def stop(task: ClassifierTask, device: torch.device) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(task, device)

    monkeypatch.setattr(ClassifierTask, "validate", stop)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(card, exams[:8], exams[8:12], tmp_path / "broken", chosen)
    monkeypatch.undo()
    lines: list[str] = []
    train_classifier(card, exams[:8], exams[8:12], tmp_path / "broken", chosen, resume=True, log=lines.append)
    assert any("step-00000002" in line for line in lines)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_best_checkpoint_is_chosen_by_value(
    card: Card, exams: list[Exam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text, 9e-05 would be the best of these."""
    scores = iter([0.1, 0.85, 9e-05, 0.8])
    monkeypatch.setattr(ClassifierTask, "validate", lambda task, device: {"average_precision": next(scores)})
    chosen = options(card, steps=4, batch_size=2, validate_every=1)
    train_classifier(card, exams[:4], exams[16:18], tmp_path / "clf", chosen)
    written = read_card(tmp_path / "clf" / "card.toml")
    assert written.provenance["classifier"]["steps"] == 2
    assert written.measured["validation"] == {"average_precision": 0.85}


def test_finetuning_starts_from_the_weights_at_a_rate_of_its_own(
    trained: Path, exams: list[Exam], tmp_path: Path
) -> None:
    template = read_card(trained / "card.toml")
    defaults = classifier_defaults(template, finetune=True)
    assert (defaults["initial"], defaults["learning_rate"]) == ("card", 3e-4)
    chosen = options(template, finetune=True, steps=1, batch_size=4, learning_rate=1e-12, weight_decay=0.0)
    train_classifier(template, exams[:4], exams[16:18], tmp_path / "clf", chosen)
    first, second = weights(trained), weights(tmp_path / "clf")
    learnt = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in learnt)


def test_samples_are_sorted_and_the_same_whoever_prepares_them(card: Card, exams: list[Exam], tmp_path: Path) -> None:
    one = labelled_images(exams[:4], card.image, tmp_path / "a", name="training")
    two = labelled_images(exams[3::-1], card.image, tmp_path / "b", name="training")
    assert one.ids == two.ids == ("e00", "e01", "e02", "e03") and one.labels == (0, 1, 0, 1)
    assert one.digest == two.digest
    expected = standardise_exam(exams[1], card.image)
    np.testing.assert_allclose(one.image(1).numpy(), expected, atol=2e-3)


def prepared(card: Card, exams: list[Exam], cache: Path) -> tuple[LabelledImages, bool]:
    """The samples, and whether the exams were read."""
    lines: list[str] = []
    return labelled_images(exams, card.image, cache, name="training", log=lines.append), bool(lines)


def test_an_exam_that_was_rewritten_is_read_again(card: Card, exams: list[Exam], tmp_path: Path) -> None:
    """Path and size stay what they were."""
    files = {name: Path(shutil.copy2(path, tmp_path)) for name, path in exams[1].files.items()}
    both = [exams[0], replace(exams[1], files=files)]
    first, read = prepared(card, both, tmp_path / "cache")
    assert read and not prepared(card, both, tmp_path / "cache")[1]
    size, before = files["adc"].stat().st_size, first.image(1).clone()
    shutil.copy(exams[3].files["adc"], files["adc"])
    assert files["adc"].stat().st_size == size
    second, read = prepared(card, both, tmp_path / "cache")
    assert read and second.digest != first.digest and not torch.equal(second.image(1), before)
    assert [name for name, words in second.describe().items() if words != first.describe()[name]] == ["e01"]
    # Elsewhere the same files are the same data.
    moved = tmp_path / "moved"
    moved.mkdir()
    copies = [replace(exam, files={name: Path(shutil.copy(path, moved)) for name, path in exam.files.items()})
              for exam in both]  # fmt: skip
    assert prepared(card, copies, tmp_path / "cache")[0].digest == second.digest


def test_every_slice_of_a_series_counts(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for number in range(3):
        (tmp_path / "series" / f"{number}.dcm").write_bytes(b"slice %d" % number)
    content, stamp = digest_source(tmp_path / "series"), stamp_source(tmp_path / "series")
    assert stamp == stamp_source(tmp_path / "series")
    (tmp_path / "series" / "1.dcm").write_bytes(b"slice 9")
    assert digest_source(tmp_path / "series") != content and stamp_source(tmp_path / "series") != stamp
    assert stamp_source(tmp_path / "nothing") == str(tmp_path / "nothing")


def refused(card: Card, training: list[Exam], validation: list[Exam], out: Path) -> str:
    with pytest.raises(InputError) as caught:
        train_classifier(card, training, validation, out, options(card))
    assert caught.value.remedy and not (out / "training").exists()
    return str(caught.value)


def test_exams_from_which_nothing_can_be_learnt(card: Card, exams: list[Exam], tmp_path: Path) -> None:
    negative = [exam for exam in exams if exam.label == 0]
    assert "All 12 training exams are of class 0" in refused(card, negative, exams[:2], tmp_path / "a")
    assert "All 12 validation exams are of class 0" in refused(card, exams[:2], negative, tmp_path / "a")
    unknown = [replace(exam, label=None) for exam in exams[:7]]
    words = refused(card, unknown + exams[7:16], exams[16:], tmp_path / "a")
    assert "7 of the 16 training exams have no class: e00, e01, e02, e03, e04 and 2 more" in words
    assert "hold the id 'e03' twice" in refused(card, [*exams[:16], exams[3]], exams[16:], tmp_path / "a")
    assert "The validation exams are none" in refused(card, exams, [], tmp_path / "a")
    shared = [replace(exam, patient_id="p01") for exam in exams[16:18]]
    assert "1 patients are among the training and the validation exams: p01" in refused(
        card, exams[:16], [*shared, *exams[18:]], tmp_path / "a"
    )


def test_a_model_that_is_no_classifier(exams: list[Exam], tmp_path: Path) -> None:
    card = find_card("ccella-pp/phantom")
    with pytest.raises(CardError, match="no part 'classifier'"):
        train_classifier(card, exams[:16], exams[16:], tmp_path, options(card))


def test_channels_that_are_chosen(card: Card) -> None:
    one = select_channels(card, ["adc"])
    assert one.image.channel_names == ("adc",) and one.part("classifier").config["in_channels"] == 1
    with pytest.raises(CardError, match="'dce'"):
        select_channels(card, ["t2w", "dce"])

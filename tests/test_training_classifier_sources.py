"""Exams of a classifier from several sources: real and sampled ones mixed, and no patient on both sides."""

import copy
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ccella.cli.main import run as ccella
from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam, find_exams
from ccella.training.classifier_data import check_apart, gather_exams
from ccella.zoo.card import parse_card, read_card
from ccella.zoo.folder import write_model_folder
from ccella.zoo.registry import find_card

CHANNELS = ("t2w", "adc")
SHAPE = (32, 32, 32)


@pytest.fixture(scope="module")
def place(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four exams of four patients, two to learn from and two to validate; all reports; samples of the first two."""
    base = tmp_path_factory.mktemp("sources")
    rows = {"real.csv": ["id,patient_id,t2w,adc,class"], "val.csv": ["id,patient_id,t2w,adc,class"]}
    for number in range(1, 5):
        name = f"1000{number}_100000{number}"
        for channel in CHANNELS:
            data = 1000 + 300 * np.random.default_rng([number, len(channel)]).random(SHAPE)
            nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.eye(4)), base / f"{name}_{channel}.nii")
        table = rows["real.csv" if number < 3 else "val.csv"]
        table.append(f"{name},1000{number},{name}_t2w.nii,{name}_adc.nii,{number % 2}")
        reports = base / ("reports" if number < 3 else "held_out")
        reports.mkdir(exist_ok=True)
        (reports / f"{name}.txt").write_text("Lesion left, PIRADS 5", encoding="utf-8")
    for name, lines in rows.items():
        (base / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    sample(tiny_model, base / "reports", base / "synthetic")
    sample(tiny_model, base / "held_out", base / "leak", "--seed", "0,1")
    return base


def sample(model: Path, prompts: Path, out: Path, *more: str) -> None:
    words = ["sample", "--prompt", str(prompts), "--model", str(model), "-o", str(out), "--steps", "1"]
    assert ccella([*words, "--device", "cpu", "-q", *more]) == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": list(SHAPE), "spacing_mm": [1.0, 1.0, 1.0]}
    document["parts"]["classifier"]["config"] |= {"width": 0.1, "depth": 0.1}
    folder = tmp_path_factory.mktemp("template")
    write_model_folder(folder / "narrow", parse_card(document, folder / "card.toml"))
    return folder / "narrow"


def train(template: Path, place: Path, out: Path, *sources: str) -> int:
    words = ["--val", str(place / "val.csv"), "--model", str(template), "-o", str(out), "--channels", "t2w,adc"]
    for source in sources:
        words += ["--train", str(place / source)]
    return ccella(["train", "classifier", *words, "--steps", "1", "--batch-size", "2", "--device", "cpu", "-q"])


def test_real_exams_and_exams_sampled_from_their_reports_train_together(
    place: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(template, place, tmp_path / "clf", "real.csv", "synthetic") == 0, capsys.readouterr().err
    data = read_card(tmp_path / "clf" / "card.toml").provenance["classifier"]["data"]
    assert (data["exams"], data["validation_exams"]) == (4, 2)


def test_the_order_of_the_sources_names_nothing_but_sampled_exams(place: Path) -> None:
    real = ["10001_1000001", "10002_1000002"]
    synthetic = place / "synthetic"
    mixed = gather_exams([place / "real.csv", synthetic], CHANNELS)
    assert [exam.id for exam in mixed] == [*real, *(f"synthetic-2-{name}" for name in real)]
    turned = gather_exams([synthetic, place / "real.csv"], CHANNELS)
    assert [exam.id for exam in turned] == [*(f"synthetic-1-{name}" for name in real), *real]
    assert [exam.id for exam in gather_exams([synthetic], CHANNELS)] == real
    with pytest.raises(InputError, match="come twice"):
        gather_exams([synthetic, synthetic / "manifest.jsonl"], CHANNELS)


def test_samples_from_reports_of_validation_patients_are_refused(
    place: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(template, place, tmp_path / "clf", "real.csv", "leak") == 2
    words = capsys.readouterr().err
    assert "2 patients are among the training and the validation exams: 10003, 10004" in words
    assert not (tmp_path / "clf").exists()


def test_whose_report_it_was_is_known_by_the_manifest_or_by_the_prompts_id(
    place: Path, tiny_model: Path, tmp_path: Path
) -> None:
    val = find_exams(place / "val.csv", CHANNELS)
    rows = [{"id": "x", "patient_id": "10003", "prompt": "Lesion"}, {"id": "y", "prompt": "Lesion"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sample(tiny_model, path, tmp_path / "out", "--seed", "5-6", "--latents")
    assert (
        ccella(["decode", str(tmp_path / "out"), "--model", str(tiny_model), "-o", str(tmp_path / "images"), "-q"]) == 0
    )
    found = {exam.id: exam for exam in find_exams(tmp_path / "images", CHANNELS)}
    assert {name: exam.patient_id for name, exam in found.items()} == {
        "x_s5": "10003", "x_s6": "10003", "y_s5": "y", "y_s6": "y",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"1 patients .*: 10003"):
        check_apart([found["x_s5"]], val, "validation")
    check_apart([found["y_s5"]], val, "validation")
    # Without a patient the prompt's id tells, whatever the real exam's patient is called, on either side.
    real = Exam("y", "somebody", {})
    for training, judged in (([found["y_s5"]], [real]), ([real], [found["y_s5"]])):
        with pytest.raises(InputError, match=r"1 exams are on both sides.*: y"):
            check_apart(training, judged, "validation")
    check_apart([Exam("y", "other", {})], [real], "validation")

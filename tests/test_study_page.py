"""The page of a study: exams, distributions, nearest pairs, and what it says where exams are gone."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccella.cli.main import run as ccella
from ccella.imaging.phantom.dataset import write_phantoms
from ccella.pipeline.prediction_table import Prediction, write_table
from ccella.study.definition import read_study
from ccella.study.exams import gather_exams
from ccella.study.inputs import record_inputs
from ccella.study.likeness import CoarseImages, average_blocks
from ccella.study.plan import plan_runs
from ccella.study.running import claim_folder

TINY = Path(__file__).parent / "data" / "study-tiny.toml"
SAMPLED = 'sample = { model = "./model", steps = 1, labels = "exam" }'


def write_classifier(folder: Path) -> None:
    """A card of a classifier on a coarse grid, without weights."""
    from ccella.zoo.folder import write_card
    from ccella.zoo.registry import find_card

    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": [32, 32, 32], "spacing_mm": [3.0, 3.0, 3.0]}
    write_card(folder / "card.toml", document)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study whose classifiers were never trained: its predictions are drawn. A synthetic exam is a copy."""
    root = tmp_path_factory.mktemp("study")
    text = TINY.read_text(encoding="utf-8")
    assert SAMPLED in text
    text = text.replace(SAMPLED, 'exams = "elsewhere"').replace("trials = 1", "trials = 2")
    (root / "study.toml").write_text(text, encoding="utf-8")
    write_classifier(root / "classifier")
    for _ in write_phantoms(root / "elsewhere", 6, 98, prevalence=0.5, start=500, workers=1):
        pass
    study, out = read_study(root / "study.toml"), root / "study"
    claim_folder(study, out)
    exams = gather_exams(study, out, "cpu", print)
    copied = exams.first["train"][0].files
    for name, path in exams.synthetic["bpmri"][0].files.items():
        shutil.copy(copied[name], path)
    record_inputs(study, exams, out, print)
    for number, run in enumerate(plan_runs(study)):
        rng = np.random.default_rng(number)
        rows = [
            Prediction(exam.id, exam.patient_id, float(rng.uniform()), int(exam.label or 0))
            for exam in exams.second["test"]
        ]
        write_table(run.folder(out) / "predictions.csv", rows, {})
    return root


@pytest.fixture(scope="module")
def page(root: Path) -> Path:
    path = root / "page.html"
    # Nothing is left to run, so that `run` reports alone.
    assert ccella(["study", "run", str(root / "study.toml"), "--report", str(path), "-q"]) == 0
    return path


def test_the_page_has_every_part_and_the_json_behind_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "") and "https:" not in text
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:4] == ["Curves", "Probabilities", "Exams", "Nearest pairs"]
    for words in ("bpmri, pretraining synthetic, 0 %: 2 trials together", "t2w, pretraining none, 50 %"):
        assert words in text
    document = json.loads(re.findall(r'<script type="application/json" id="result">(.*?)</script>', text)[0])
    assert document["schema"] == "ccella.study_result/2" and len(document["runs"]) == 20
    assert set(document["nearest"]) == {"t2w", "bpmri"} and set(document["nearest"]["bpmri"]) == {"t2w", "hbv", "adc"}
    found = document["nearest"]["bpmri"]["adc"]
    assert found["audited"] == found["of"] == 6
    # The copy is the nearest of all.
    assert found["nearest"][0]["correlation"] == pytest.approx(1.0, abs=1e-4)


def test_the_page_in_a_real_browser(page: Path, show_page: Any) -> None:
    picture, tree = show_page(page)
    assert picture.std() > 10
    assert "Nearest pairs" in tree and tree.count("<svg") >= 8


def test_a_page_without_exams_says_so(root: Path, page: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "study", tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "data")
    path = tmp_path / "page.html"
    words = ["study", "report", str(root / "study.toml"), "-o", str(tmp_path / "study"), "--report", str(path), "-q"]
    assert ccella(words) == 0
    text = path.read_text(encoding="utf-8")
    assert "since some cannot be read" in text and "institution1 does not exist" in text
    assert text.count("<img") == 3


def test_blocks_are_averaged() -> None:
    image = np.random.default_rng(0).normal(size=(64, 5, 7)).astype(np.float32)
    found = average_blocks(image, 4)
    assert found.shape == (4, 3, 4)
    assert found[1, 2, 3] == pytest.approx(image[16:32, 4:, 6:].mean(), abs=1e-5)
    assert found[0, 0, 0] == pytest.approx(image[:16, :2, :2].mean(), abs=1e-5)
    assert np.array_equal(average_blocks(image, 64), image)
    images = CoarseImages(image.reshape(2, 2, 16, 5, 7), 1, [1])
    assert len(images) == 1 and np.array_equal(images[0], image.reshape(2, 2, 16, 5, 7)[1, 1])

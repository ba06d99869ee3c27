"""A study folder keeps to the exams and models of its first run."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccella.cli.main import run as ccella
from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.imaging.files import write_volume
from ccella.imaging.volume import Volume
from ccella.study.definition import Study, read_study
from ccella.study.exams import gather_exams
from ccella.study.inputs import FileDigests, check_models, record_inputs
from ccella.study.running import claim_folder

STUDY = """
schema = 1
title = "Inputs"
classifier = "./classifier"
seed = 3
trials = 1
fractions = [0.5]
split = [0.5, 0.25, 0.25]
bootstrap = 100
institution1 = { exams = "first.csv" }
institution2 = { exams = "second.csv" }

[sequences]
t2w = ["t2w"]

[synthetic.t2w]
exams = "made.csv"
"""


def write_classifier(folder: Path, **training: Any) -> None:
    """A card without weights, with some options of its training."""
    from ccella.zoo.folder import write_card
    from ccella.zoo.registry import find_card

    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["training"]["classifier"] |= training
    write_card(folder / "card.toml", document)


def write_manifest(path: Path, count: int, other_class: int | None = None) -> None:
    rows = ["id,patient_id,class,t2w,report"]
    for number in range(count):
        name = f"{path.stem}{number}"
        label = (number + (number == other_class)) % 2
        rows.append(f"{name},{name},{label},images/{name}.nii.gz,Report {number}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_image(path: Path, seed: int) -> None:
    data = np.random.default_rng(seed).normal(size=(8, 8, 4)).astype(np.float32)
    write_volume(path, Volume(data, np.eye(4)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    write_classifier(tmp_path / "classifier")
    (tmp_path / "images").mkdir()
    for place, (name, count) in enumerate((("first", 12), ("second", 16), ("made", 6))):
        write_manifest(tmp_path / f"{name}.csv", count)
        for number in range(count):
            write_image(tmp_path / "images" / f"{name}{number}.nii.gz", 100 * place + number)
    return tmp_path


def open_study(root: Path) -> Study:
    """What `study run` does before its first training."""
    study, out = read_study(root / "study.toml"), root / "study"
    claim_folder(study, out)
    check_models(study, out, print)
    record_inputs(study, gather_exams(study, out, "cpu", print), out, print)
    return study


def test_what_has_not_changed_goes_on_wherever_it_lies(root: Path) -> None:
    open_study(root)
    recorded = (root / "study" / "study.json").read_text(encoding="utf-8")
    table = (root / "study" / "partitions.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 1 + 12 + 16 + 6
    open_study(root)
    shutil.move(root / "images", root / "elsewhere")
    for name in ("first", "second", "made"):
        path = root / f"{name}.csv"
        path.write_text(path.read_text(encoding="utf-8").replace("images/", "elsewhere/"), encoding="utf-8")
    open_study(root)
    assert (root / "study" / "study.json").read_text(encoding="utf-8") == recorded


def change_image(root: Path) -> None:
    file = root / "images" / "second3.nii.gz"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    # Same length, so that only the content tells.
    file.write_bytes(content)


def change_class(root: Path) -> None:
    # Two exams change places, so that as many are of either class.
    text = (root / "made.csv").read_text(encoding="utf-8")
    text = text.replace("made0,made0,0", "made0,made0,9").replace("made1,made1,1", "made1,made1,0")
    (root / "made.csv").write_text(text.replace("made0,made0,9", "made0,made0,1"), encoding="utf-8")


def change_patient(root: Path) -> None:
    text = (root / "made.csv").read_text(encoding="utf-8")
    (root / "made.csv").write_text(text.replace("made2,made2", "made2,made4"), encoding="utf-8")


def change_report(root: Path) -> None:
    text = (root / "first.csv").read_text(encoding="utf-8")
    (root / "first.csv").write_text(text.replace("Report 5", "Another report"), encoding="utf-8")


def remove_exam(root: Path) -> None:
    text = (root / "made.csv").read_text(encoding="utf-8")
    (root / "made.csv").write_text(text[: text.index("made5")], encoding="utf-8")


def change_rate(root: Path) -> None:
    write_classifier(root / "classifier", learning_rate=0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_image, "on other exams: the files or report of second3 of institution2 differ"),
        (change_class, "on other exams: the class of made0 of synthetic-t2w differs"),
        (change_patient, "on other exams: the patient of made2 of synthetic-t2w differs"),
        (change_report, "on other exams: the files or report of first5 of institution1 differ"),
        (remove_exam, "on other exams: made5 of synthetic-t2w was there"),
        (change_rate, "with another model: the card of the classifier is not what it was"),
    ],
)
def test_what_has_changed_is_named(change: Any, words: str, root: Path) -> None:
    open_study(root)
    recorded = (root / "study" / "study.json").read_text(encoding="utf-8")
    change(root)
    for _ in range(2):
        with pytest.raises(InputError, match=words) as caught:
            open_study(root)
        assert "-o" in caught.value.remedy
    assert (root / "study" / "study.json").read_text(encoding="utf-8") == recorded
    assert ccella(["study", "run", str(root / "study.toml"), "-o", str(root / "study")]) == 2


def test_weights_that_sample_are_compared_before_they_do(root: Path, tiny_model: Path) -> None:
    text = STUDY.replace('exams = "made.csv"', 'sample = { model = "./model", steps = 1 }')
    (root / "study.toml").write_text(text, encoding="utf-8")
    shutil.copytree(tiny_model, root / "model")
    study, out = read_study(root / "study.toml"), root / "study"
    claim_folder(study, out)
    from ccella.study.inputs import _describe_models

    path = out / "study.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    models = _describe_models(study)
    weights = next(name for name in models if name.startswith("denoiser/"))
    path.write_text(json.dumps({**document, "inputs": {"models": models, "exams": ""}}), encoding="utf-8")
    check_models(study, out, print)
    card = (root / "model" / "card.toml").read_text(encoding="utf-8")
    (root / "model" / "card.toml").write_text(card.replace(models[weights], "0" * 64), encoding="utf-8")
    with pytest.raises(InputError, match=f"{weights} is not what it was"):
        check_models(study, out, print)


def test_runs_without_a_record_are_not_gone_on_with(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = open_study(root)
    path = root / "study" / "study.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["inputs"]
    path.write_text(json.dumps(document), encoding="utf-8")
    check_models(study, root / "study", print)
    (root / "study" / "runs" / "t2w").mkdir(parents=True)
    assert ccella(["study", "run", str(root / "study.toml"), "-o", str(root / "study")]) == 2
    assert "has runs, but no record of the exams and weights" in capsys.readouterr().err


def test_a_file_is_read_again_when_it_changes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (series / name).write_text(name, encoding="utf-8")
    files = FileDigests(tmp_path / "files.json")
    first = files.digest(series)
    files.save()
    again = FileDigests(tmp_path / "files.json").load()
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
        assert again.digest(series) == first
    (series / "2.dcm").rename(series / "3.dcm")
    renamed = again.digest(series)
    (series / "1.dcm").write_text("x.dcm", encoding="utf-8")
    assert len({first, renamed, again.digest(series)}) == 3


def test_words_of_a_digest_are_kept_apart(tmp_path: Path) -> None:
    """A report that ends where a channel's name begins is another exam."""
    from ccella.study.inputs import _row

    (tmp_path / "x").write_text("x", encoding="utf-8")
    files = FileDigests(tmp_path / "files.json")
    exams = [Exam("a", "a", {"bc": tmp_path / "x", "c": tmp_path / "x"}, text=text, label=0) for text in ("a", "ab")]
    assert _row("s", "train", exams[0], "", ("bc",), files) != _row("s", "train", exams[1], "", ("c",), files)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "[sequences]",
            "[finetune]\nlearning_rat = 1e-3\n[sequences]",
            r"'learning_rat' in \[finetune\] of .*toml",
        ),
        ("[sequences]", '[pretrain]\nsteps = "many"\n[sequences]', "steps"),
        (
            '{ exams = "second.csv" }',
            "{ phantoms = { count = 9, institution = 3 } }",
            "institution is 3; expected 1",
        ),
        ('{ exams = "second.csv" }', "{ phantoms = { count = 9, prevalence = 7 } }", "prevalence is 7"),
        ('exams = "made.csv"', 'sample = { model = "nosuch" }', "There is no model 'nosuch'"),
        ('exams = "made.csv"', 'sample = { model = "ccella-pp/phantom", steps = "8" }', "steps is '8'"),
        ('exams = "made.csv"', 'sample = { model = "ccella-pp/phantom", preset = "quick" }', "has no preset 'quick'"),
        ('exams = "made.csv"', 'sample = { model = "ccella-pp/phantom", steps = 2000 }', "2000"),
        ('["t2w"]', '["t2"]', "has no channel 't2'"),
        ('["t2w"]', '["t2w", "t2w"]', "names? a channel twice"),
        ('"./classifier"', '"nosuch"', "There is no model 'nosuch'"),
    ],
)
def test_a_file_that_means_nothing_is_refused_before_a_folder_is_made(
    old: str, new: str, words: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "study.toml").write_text(STUDY.replace(old, new), encoding="utf-8")
    for more in (["--dry-run"], []):
        assert ccella(["study", "run", str(root / "study.toml"), "-o", str(root / "study"), *more]) != 0
        assert re.search(words, capsys.readouterr().err)
    assert not (root / "study").exists()

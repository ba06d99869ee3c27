"""Classifying exams: what is written, what is kept, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ccella.evaluation.prediction_sets import read_predictions
from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.imaging.files import read_volume, write_volume
from ccella.imaging.standardisation import standardise_exam
from ccella.imaging.volume import Volume, reference_affine, reorient
from ccella.pipeline.classify import PredictionFile, classify, prediction_entry
from ccella.pipeline.errors import ItemsFailedError, RunFolderError
from ccella.pipeline.prediction_table import Prediction, read_table_rows, write_table

SHAPE = (32, 32, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A narrow classifier with random weights in a model folder, loaded."""
    import copy

    from ccella.export.runtimes import choose_runtime
    from ccella.training.classifier import select_channels
    from ccella.zoo.card import parse_card
    from ccella.zoo.family import load_family
    from ccella.zoo.folder import write_model_folder
    from ccella.zoo.registry import find_card

    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": list(SHAPE), "spacing_mm": [1.0, 1.0, 1.0]}
    changes = {"width": 0.1, "depth": 0.1, "batch_norm_momentum": 1.0, "zero_head": False}
    document["parts"]["classifier"]["config"] |= changes
    folder = tmp_path_factory.mktemp("model")
    template = select_channels(parse_card(document, folder / "card.toml"), ["t2w", "adc"])
    torch.manual_seed(0)
    network = load_family("classifier").build(template.part("classifier"))
    # One batch sets the running statistics; fresh ones would squash the signal to nothing.
    with torch.no_grad():
        network.train()(torch.randn(8, 2, *SHAPE))
    card = write_model_folder(folder / "clf", template, parts={"classifier": network.state_dict()})
    runtime = choose_runtime("torch", card, device="cpu")
    return SimpleNamespace(card=card, runtime=runtime, network=runtime.load(card, "classifier"), folder=folder / "clf")


def exam(folder: Path, number: int, label: int | None = None) -> Exam:
    rng, files = np.random.default_rng(number), {}
    for name in ("t2w", "adc"):
        files[name] = folder / f"e{number}_{name}.nii.gz"
        data = (1000 + 300 * rng.random(SHAPE) + 20 * np.arange(32)).astype(np.float32)
        write_volume(files[name], Volume(data, reference_affine(SHAPE, (1.0, 1.0, 1.0))))
    return Exam(f"e{number}", f"p{number // 2}", files, label=label)


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> list[Exam]:
    folder = tmp_path_factory.mktemp("exams")
    return [exam(folder, number, label) for number, label in enumerate((0, 1, None))]


def run(model: Any, exams: list[Exam], path: Path, **how: bool) -> list[Prediction]:
    file = PredictionFile(path, prediction_entry(model.card, model.runtime), **how)
    return list(classify(exams, model.card, classifier=model.network, runtime=model.runtime, file=file))


def test_the_file_holds_what_the_network_says(model: Any, exams: list[Exam], tmp_path: Path) -> None:
    rows = run(model, exams, tmp_path / "p.csv")
    assert read_table_rows(tmp_path / "p.csv") == [
        Prediction(row.id, row.patient_id, pytest.approx(row.probability, rel=1e-8), row.label) for row in rows
    ]
    assert [(row.id, row.patient_id, row.label) for row in rows] == [
        ("e0", "p0", 0),
        ("e1", "p0", 1),
        ("e2", "p1", None),
    ]
    with torch.no_grad():
        for row, each in zip(rows, exams, strict=True):
            logits = model.network(torch.from_numpy(standardise_exam(each, model.card.image))[None])
            assert row.probability == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-6)
    assert len({row.probability for row in rows}) == 3
    # `ccella evaluate predictions` reads the table where every label is known.
    run(model, exams[:2], tmp_path / "labelled" / "q.csv")
    assert read_predictions(tmp_path / "labelled" / "q.csv").labels.tolist() == [0, 1]
    entry = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert entry["model"]["files"] == {
        "classifier/classifier.safetensors": model.card.part("classifier").files[0].sha256
    }
    assert entry["exams"] == 3 and sorted(path.name for path in tmp_path.glob("*.*")) == ["p.csv", "p.json"]


def test_another_grid_of_the_same_exam_gives_the_same_answer(model: Any, exams: list[Exam], tmp_path: Path) -> None:
    files = {}
    for name, path in exams[0].files.items():
        files[name] = tmp_path / f"{name}.nii.gz"
        write_volume(files[name], reorient(read_volume(path), "LPI"))
    first, second = run(model, [exams[0], Exam("other", "x", files)], tmp_path / "p.csv")
    assert second.probability == pytest.approx(first.probability, abs=1e-5)


def test_a_killed_run_is_completed(model: Any, exams: list[Exam], tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "p.csv"
    file = PredictionFile(path, prediction_entry(model.card, model.runtime))
    rows = classify(exams, model.card, classifier=model.network, runtime=model.runtime, file=file)
    next(rows), next(rows)
    rows.close()
    assert not path.exists() and len(read_table_rows(tmp_path / "p.partial.csv")) == 2
    seen: list[str] = []
    original = standardise_exam
    monkeypatch.setattr(
        "ccella.pipeline.classify.standardise_exam", lambda exam, spec: seen.append(exam.id) or original(exam, spec)
    )
    run(model, exams, path, resume=True)
    assert seen == ["e2"] and [row.id for row in read_table_rows(path)] == ["e0", "e1", "e2"]
    assert not (tmp_path / "p.partial.csv").exists()


def test_what_is_there_is_not_overwritten_unasked(model: Any, exams: list[Exam], tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    run(model, exams[:1], path)
    with pytest.raises(RunFolderError, match="is there already"):
        run(model, exams, path)
    assert len(run(model, exams, path, overwrite=True)) == 3
    entry = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    entry["model"]["files"] = {"classifier/classifier.safetensors": "0" * 64}
    (tmp_path / "p.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(RunFolderError, match="another model"):
        run(model, exams, path, resume=True)


def copied(source: Exam, folder: Path) -> Exam:
    folder.mkdir()
    return replace(source, files={name: Path(shutil.copy2(path, folder)) for name, path in source.files.items()})


def test_resuming_keeps_rows_of_the_same_images_alone(model: Any, exams: list[Exam], tmp_path: Path) -> None:
    """Ids say nothing of the images: another folder's exams, or a file that was rewritten, may have the same."""
    path = tmp_path / "p.csv"
    first = run(model, exams[:2], path)
    moved = copied(exams[0], tmp_path / "moved")
    other = replace(exams[2], id="e1", patient_id="p0", label=1)
    calls: list[str] = []
    watched = lambda exam, spec: calls.append(exam.id) or standardise_exam(exam, spec)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccella.pipeline.classify.standardise_exam", watched)
        second = run(model, [moved, other], path, resume=True)
    assert calls == ["e1"] and second[0].probability == pytest.approx(first[0].probability, rel=1e-8)
    assert second[1].probability == run(model, [other], tmp_path / "alone.csv")[0].probability
    assert second[1].probability != first[1].probability
    # The table and what is said of it belong together.
    path.write_text(path.read_text(encoding="utf-8").replace("p0,0", "p0,1"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccella.pipeline.classify.standardise_exam", watched)
        run(model, [moved, other], path, resume=True)
    assert calls == ["e1", "e0", "e1"]


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("runtime", "onnx")])
def test_rows_of_another_precision_or_runtime_are_not_mixed_in(
    model: Any, exams: list[Exam], tmp_path: Path, key: str, value: str
) -> None:
    path = tmp_path / "p.csv"
    run(model, exams[:1], path)
    with pytest.raises(RunFolderError, match=f"was made with {key} .*, not {value}"):
        PredictionFile(path, {**prediction_entry(model.card, model.runtime), key: value}, resume=True)


def test_shards_are_joined(model: Any, exams: list[Exam], tmp_path: Path, capsys: Any) -> None:
    from ccella.cli.main import run as ccella

    rows = [",".join(("id", *exams[0].files))]
    rows += [",".join((each.id, *map(str, each.files.values()))) for each in exams]
    (tmp_path / "exams.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    path = tmp_path / "p.csv"
    words = ["classify", str(tmp_path / "exams.csv"), "--model", str(model.folder), "-o", str(path), "--json", "-q"]
    assert ccella([*words, "--shard", "1/2", "--dry-run"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"id": "e0", "patient_id": "e0", "label": None, "path": (tmp_path / "p-1-of-2.csv").as_posix()}
    ]
    for shard, ids in (("1/2", ["e0"]), ("2/2", ["e1", "e2"])):
        assert ccella([*words, "--shard", shard]) == 0
        assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ids
    parts = [row for name in ("p-1-of-2.csv", "p-2-of-2.csv") for row in read_table_rows(tmp_path / name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccella.pipeline.classify.standardise_exam", None)
        assert ccella([*words, "--resume"]) == 0
    assert read_table_rows(path) == parts and len(parts) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["exams.csv", "p.csv", "p.json"]


def test_an_exam_that_cannot_be_used_does_not_cost_the_others(model: Any, exams: list[Exam], tmp_path: Path) -> None:
    missing = Exam("gone", "gone", dict.fromkeys(("t2w", "adc"), tmp_path / "nothing.nii.gz"))
    with pytest.raises(ItemsFailedError, match="gone"):
        run(model, [exams[0], missing, exams[1]], tmp_path / "p.csv")
    assert [row.id for row in read_table_rows(tmp_path / "p.csv")] == ["e0", "e1"]
    with pytest.raises(ItemsFailedError, match="'e0' comes twice"):
        run(model, [exams[0], exams[0]], tmp_path / "q.csv")
    with pytest.raises(InputError):
        run(model, [missing], tmp_path / "r.csv")
    assert not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize(
    ("row", "words"), [("a,a,nan,1", "'nan'"), ("a,a,1.5,1", "'1.5'"), ("a,a,,1", "''"), ("a,a,0.5,maybe", "'maybe'")]
)
def test_rows_that_cannot_be_resumed(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"id,patient_id,probability,label\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_table_rows(tmp_path / "p.csv")


def test_neighbouring_floats_stay_apart(tmp_path: Path) -> None:
    near = [Prediction("a", "a", 0.53119295835495, 1), Prediction("b", "b", 0.53119301795959, 0)]
    write_table(tmp_path / "p.csv", near, {})
    first, second = read_table_rows(tmp_path / "p.csv")
    assert first.probability < second.probability


def test_the_command_reads_records_from_a_pipe(
    model: Any, exams: list[Exam], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    import io

    from ccella.cli.main import run as ccella

    lines = [
        json.dumps({"schema": "ccella.record/1", "kind": "volume", "id": each.id, "channel": name, "path": str(path),
                    "channels": ["t2w", "adc"], "class": each.label})
        for each in exams for name, path in each.files.items()
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    out = tmp_path / "p.csv"
    assert ccella(["classify", "-", "--model", str(model.folder), "-o", str(out), "--json", "-q"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["id"], row["label"]) for row in printed] == [
        ("prediction", "e0", 0), ("prediction", "e1", 1), ("prediction", "e2", None),
    ]  # fmt: skip
    assert ccella(["classify", str(tmp_path), "-o", str(out), "--model", "ccella-pp/phantom"]) == 2
    assert "no part 'classifier'" in capsys.readouterr().err
    assert ccella(["classify", str(tmp_path), "-o", str(out)]) == 2

"""A study from its file to its figures: every kind of run, stopped and gone on with, and what is refused."""

import copy
import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ccella.cli.main import run as ccella
from ccella.evaluation.prediction_sets import read_predictions
from ccella.imaging.errors import InputError
from ccella.pipeline.seeds import Shard
from ccella.study.definition import read_study
from ccella.study.plan import Run, plan_runs
from ccella.study.running import claim_folder, run_study
from ccella.study.sharing import share_runs

TINY = Path(__file__).parent / "data" / "study-tiny.toml"


def write_classifier(folder: Path) -> None:
    """A card of a narrow classifier on a coarse grid, without weights."""
    from ccella.zoo.folder import write_card
    from ccella.zoo.registry import find_card

    document: dict[str, Any] = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"] |= {"shape": [32, 32, 32], "spacing_mm": [3.0, 3.0, 3.0]}
    document["parts"]["classifier"]["config"] |= {"width": 0.1, "depth": 0.1}
    document["training"]["classifier"] |= {"validate_every": 0, "max_translation": [3.0, 3.0, 1.0]}
    write_card(folder / "card.toml", document)


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's file with what it names beside it."""
    from ccella.imaging.phantom.dataset import write_phantoms

    root = tmp_path_factory.mktemp("study")
    shutil.copy(TINY, root / "study.toml")
    write_classifier(root / "classifier")
    shutil.copytree(tiny_model, root / "model")
    for _ in write_phantoms(root / "elsewhere", 6, 98, prevalence=0.5, start=500, workers=1):
        pass
    return root


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    """The study, stopped in its fourth run by an interruption and then finished by the same command."""
    study, out, seen = read_study(folder / "study.toml"), folder / "study", []

    def stop(line: str) -> None:
        seen.append(line)
        if line.startswith("Run 4 of 10"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, out, device="cpu", say=stop)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/predictions.csv")}
    assert len(before) == 3
    lines: list[str] = []
    assert run_study(study, out, device="cpu", say=lines.append) == 7
    assert lines[0] == "3 of 10 runs are done."
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    return out


@pytest.mark.parametrize("name", ["study-phantom", "study-phantom-short"])
def test_the_plan_is_that_of_the_paper(name: str) -> None:
    """Three trainings of 2 pretrained zero-shot points and 3 curves at 5 shares, for two sequence sets."""
    study = read_study(Path(__file__).parents[1] / "examples" / f"{name}.toml")
    assert study.synthetic["t2w"] == study.synthetic["bpmri"]
    runs = list(plan_runs(study))
    assert len(runs) == len(set(runs)) == 2 * 3 * (2 + 3 * 5)
    curve = [run for run in runs if (run.sequences, run.pretraining, run.trial) == ("bpmri", "real", 1)]
    assert [run.fraction for run in curve] == [0.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
    for place, run in enumerate(runs):
        assert run.start is None or runs.index(run.start) < place


def test_every_run_predicts_the_same_test_exams(done: Path, folder: Path) -> None:
    runs = list(plan_runs(read_study(folder / "study.toml")))
    tables = [read_predictions(run.folder(done) / "predictions.csv") for run in runs]
    assert len(tables) == 10 and len({table.ids for table in tables}) == 1
    with (done / "partitions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    test = {row["id"] for row in rows if (row["set"], row["split"]) == ("institution2", "test")}
    assert set(tables[0].ids) == test
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_finetuning_starts_from_the_pretrained_weights(done: Path) -> None:
    import tomllib

    for pretraining, initial in (("real", "card"), ("synthetic", "card"), ("none", "scratch")):
        run = Run("bpmri", pretraining, 0.5, 0)
        card = tomllib.loads((run.folder(done) / "card.toml").read_text(encoding="utf-8"))
        assert card["provenance"]["classifier"]["options"]["initial"] == initial
        assert card["provenance"]["classifier"]["options"]["learning_rate"] == (3e-4 if initial == "card" else 3e-3)
        assert not (run.folder(done) / "training" / "classifier" / "checkpoints").exists()


def test_institution_2_chooses_no_weights_of_a_zero_shot_point(folder: Path) -> None:
    """Its own validation exams choose those of whatever learns from it."""
    from dataclasses import replace

    from ccella.imaging.exams import Exam
    from ccella.study.exams import StudyExams
    from ccella.study.running import validation_exams

    first, second = ({"validation": [Exam(name, name, {})]} for name in ("first", "second"))
    exams = StudyExams(first, second, {}, {})
    study = read_study(folder / "study.toml")
    other = replace(study, validation="institution2")
    for run in plan_runs(study):
        assert validation_exams(study, run, exams) == first["validation"]
        expected = second if run.fraction > 0 else first
        assert validation_exams(other, run, exams) == expected["validation"]


@pytest.mark.parametrize("name", ["study-phantom", "study-phantom-short"])
def test_the_examples_train_every_arm_for_as_many_steps(name: str) -> None:
    options = read_study(Path(__file__).parents[1] / "examples" / f"{name}.toml").options
    assert options["scratch"]["steps"] == options["pretrain"]["steps"] + options["finetune"]["steps"]


def test_tables_figures_and_page(done: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "page.html"
    assert ccella(["study", "report", str(folder / "study.toml"), "--report", str(page), "--json", "-q"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["runs"]) == printed["runs_planned"] == 10
    with (done / "tables" / "summary.csv").open(encoding="utf-8") as file:
        summary = list(csv.DictReader(file))
    assert len(summary) == 2 * 10 and {row["percent"] for row in summary} == {"0", "50"}
    for row in summary:
        # One trial: nothing is known of others.
        assert row["trials"] == "1" and row["sd"] == row["low"] == row["high"] == ""
        assert row["mean"] == row["min"] == row["max"]
        assert 0 <= float(row["patients_low"]) <= float(row["mean"]) <= float(row["patients_high"]) <= 1
    with (done / "tables" / "runs.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    table = read_predictions(Run("t2w", "real", 0.0, 0).folder(done) / "predictions.csv")
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert float(first["auc"]) == pytest.approx(roc_auc_score(table.labels, table.probabilities), abs=1e-4)
    expected = average_precision_score(table.labels, table.probabilities)
    assert float(first["average_precision"]) == pytest.approx(expected, abs=1e-4)
    for name in ("curves-t2w", "curves-bpmri", "difference-bpmri"):
        assert (done / "figures" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = page.read_text(encoding="utf-8")
    text = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http:" not in text and "https:" not in text
    # Curves, three exams with the sample of their report, three of institution 2, three nearest pairs per sequence.
    assert text.count("<img") == 3 + 3 * 2 + 3 + (1 + 3) * 3 * 2
    assert "and its report&#x27;s sample" in text


def test_a_report_of_half_a_study_says_so(
    done: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done / "runs" / "t2w", tmp_path / "runs" / "t2w")
    shutil.copy(done / "study.json", tmp_path)
    assert ccella(["study", "report", str(folder / "study.toml"), "-o", str(tmp_path)]) == 0
    assert "5 of 10 runs are done; the others are left out." in capsys.readouterr().err
    assert not (tmp_path / "figures" / "difference-bpmri.png").exists()


def test_a_folder_of_another_study_is_refused(done: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "study.toml"
    other.write_text(
        (folder / "study.toml").read_text(encoding="utf-8").replace("seed = 3", "seed = 4"), encoding="utf-8"
    )
    with pytest.raises(InputError, match="another study: its seed"):
        claim_folder(read_study(other), done)
    assert ccella(["study", "run", str(other), "-o", str(done)]) == 2
    with pytest.raises(InputError, match="no finished run"):
        from ccella.study.results import collect_results

        collect_results(read_study(other), tmp_path / "empty")


def test_samples_of_another_sampler_are_refused_with_a_remedy_that_a_study_has(
    done: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    shutil.copytree(done, out)
    shutil.rmtree(out / "runs" / "bpmri" / "synthetic")
    samples = out / "data" / "synthetic-bpmri"
    recorded = json.loads((samples / "run.json").read_text(encoding="utf-8"))
    recorded["settings"]["precision"] = "bf16"
    (samples / "run.json").write_text(json.dumps(recorded), encoding="utf-8")
    assert ccella(["study", "run", str(folder / "study.toml"), "-o", str(out), "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert f"Give another study folder with -o; or, where no run is done yet, remove {samples}." in message
    assert "--" not in message.split("error: ")[1]


def test_shards_share_out_every_run_and_need_no_other_shards_weights() -> None:
    runs = list(plan_runs(read_study(Path(__file__).parents[1] / "examples" / "study-phantom.toml")))
    for count in (1, 2, 3, 50):
        shares = [share_runs(runs, Shard(index, count)) for index in range(1, count + 1)]
        assert sorted((run for share in shares for run in share), key=runs.index) == runs
        for share in shares:
            assert all(run.start is None or run.start in share for run in share)
    halves = [share_runs(runs, Shard(index, 2)) for index in (1, 2)]
    assert len(halves[0]) == len(halves[1])


def test_shards_at_the_same_time_and_one_that_is_killed(done: Path, folder: Path, tmp_path: Path, program: Any) -> None:
    """Two processes on one folder; one dies amid the phantoms, the other makes all exams; the result is that of one."""
    out = tmp_path / "study"
    words = ["study", "run", str(folder / "study.toml"), "-o", str(out), "--device", "cpu", "--shard"]
    first = program.start(*words, "1/2", cwd=tmp_path, at={"rename": 30, "do": "SIGSTOP"})
    first.wait_until_stopped()
    second = program.start(*words, "2/2", cwd=tmp_path, at={"rename": 5, "do": "SIGSTOP"})
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    second.wait_until_stopped()
    twin = program.run(*words, "2/2", cwd=tmp_path)
    os.kill(second.pid, signal.SIGCONT)
    ended = second.wait()
    assert ended.code == 0, ended.err
    assert "5 of 10 runs are done; the others are left out." in ended.err
    assert twin.code != 0 and "Another process is writing" in twin.err
    # Killed again where its second run's weights are being written.
    began = program.run(*words, "1/2", cwd=tmp_path, at={"rename": 20, "do": "SIGKILL"})
    assert began.code == -9
    ended = program.run(*words, "1/2", cwd=tmp_path)
    assert ended.code == 0, ended.err
    runs = list(plan_runs(read_study(folder / "study.toml")))
    for run in runs:
        one, other = (read_predictions(run.folder(root) / "predictions.csv") for root in (done, out))
        assert one.ids == other.ids
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["runs_planned"] == 10
    # Samples begun in two shares may be gone on with as a whole.
    shutil.rmtree(out / "runs" / "bpmri" / "synthetic")
    assert run_study(read_study(folder / "study.toml"), out, device="cpu") == 2


def test_a_dry_run_does_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ccella(["study", "run", str(folder / "study.toml"), "-o", str(tmp_path / "new"), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    words = ["study", "run", str(folder / "study.toml"), "--dry-run", "--shard"]
    assert ccella([*words, "2/2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert ccella([*words, "3/2"]) == 2
    assert "Shard 3/2 does not exist" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 3", "sede = 3", "unknown key sede"),
        ("[0.5]", "[1.5]", "fractions"),
        ("[0.5, 0.25, 0.25]", "[0.5, 0.25, 0.5]", "split"),
        ('title = "Tiny study"', "", "title is missing"),
        ('exams = "elsewhere"', "", "synthetic.t2w has 0 sources"),
        ('labels = "exam"', 'labels = "guess"', "labels is 'guess'"),
        ("schema = 1", "schema = 9", "schema is 9"),
        ("seed = 3", "seed = ", "not valid TOML"),
    ],
)
def test_study_files_that_cannot_be_read(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = TINY.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "study.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_study(tmp_path / "study.toml")
    assert caught.value.remedy

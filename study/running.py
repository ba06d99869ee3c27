"""Running a study: exams, then one training and its predictions after the other; what is done is kept."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json, write_text
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..pipeline.run_lock import RunLock
from .definition import Study
from .partitions import fraction_name, partition_exams, split_exams
from .plan import ZERO_SHOT, Run, plan_runs
from .sources import institution_exams, synthetic_exams

STUDY_FILE = "study.json"
PREDICTIONS = "predictions.csv"
Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyExams:
    """The exams of a study.

    Attributes:
        first: Institution 1 by split.
        second: Institution 2 by split.
        parts: Parts of institution 2's training exams by share.
        synthetic: Synthetic exams by sequence set.
    """

    first: Mapping[str, Sequence[Exam]]
    second: Mapping[str, Sequence[Exam]]
    parts: Mapping[float, Sequence[Exam]]
    synthetic: Mapping[str, Sequence[Exam]]


def run_study(study: Study, out: Path, *, device: str = "auto", say: Say = lambda line: None) -> int:
    """Runs what is missing of a study.

    Args:
        study: What to run.
        out: The study folder; made where missing.
        device: Where networks run: auto, cpu or cuda.
        say: Takes lines for people.

    Returns:
        Number of runs that were made now.

    Raises:
        InputError: The folder is of another study, or exams cannot be used.
        RunFolderError: Another process works in the folder.
        TrainingInterrupted: Stopped; the same call goes on.
    """
    claim_folder(study, out)
    lock = RunLock(out, None, say)
    lock.end_setup()
    try:
        runs = list(plan_runs(study))
        missing = [run for run in runs if not (run.folder(out) / PREDICTIONS).is_file()]
        say(f"{len(runs) - len(missing)} of {len(runs)} runs are done.")
        if missing:
            exams = gather_exams(study, out, device, say)
            for run in missing:
                say(f"Run {runs.index(run) + 1} of {len(runs)}: {run}.")
                _make_run(study, run, exams, out, device, say)
        return len(missing)
    finally:
        lock.release()


def claim_folder(study: Study, out: Path) -> None:
    """Marks a folder as this study's; InputError where it is another's, naming the first key that differs."""
    path = out / STUDY_FILE
    document = json.loads(json.dumps(study.document))
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))["document"]
        different = sorted(key for key in {*old, *document} if old.get(key) != document.get(key))
        if different:
            raise InputError(
                f"{out} is the folder of another study: its {different[0]} is not that of {study.path}.",
                "Give another folder with -o, or the study file of that folder.",
            )
        return
    if (out / "runs").exists():
        raise InputError(f"{out} holds runs and no {STUDY_FILE}.", "Give another folder with -o.")
    write_json(path, {"schema": "ccella.study/1", "file": study.path.name, "document": document})


def gather_exams(study: Study, out: Path, device: str, say: Say) -> StudyExams:
    """Finds or makes the exams of a study, and writes who is in which part to `partitions.csv`."""
    from ..training.classifier_data import check_labelled

    channels = list(dict.fromkeys(name for names in study.sequences.values() for name in names))
    split = []
    for number, source in enumerate(study.institutions, 1):
        exams = institution_exams(source, channels, out / "data" / f"institution{number}", say)
        # Two institutions may number their patients alike.
        exams = [replace(exam, patient_id=f"institution{number}-{exam.patient_id}") for exam in exams]
        check_labelled(exams, f"institution {number}")
        split.append(split_exams(exams, study.split, study.seed, f"Institution {number}"))
    first, second = split
    _check_files([exam for exams in first.values() for exam in exams], second["test"])
    synthetic = {}
    if "synthetic" in study.pretraining:
        for name, names in study.sequences.items():
            folder = out / "data" / f"synthetic-{name}"
            synthetic[name] = synthetic_exams(study.synthetic[name], first["train"], names, folder, device, say)
            check_labelled(synthetic[name], f"synthetic {name}")
            _check_files(synthetic[name], second["test"])
    found = StudyExams(first, second, partition_exams(second["train"], study.fractions, study.seed), synthetic)
    _write_partitions(out / "partitions.csv", found)
    return found


def _check_files(training: Sequence[Exam], test: Sequence[Exam]) -> None:
    """Refuses a test exam whose file is trained on."""
    learnt = {path.resolve() for exam in training for path in exam.files.values()}
    for exam in test:
        for path in exam.files.values():
            if path.resolve() in learnt:
                raise InputError(f"{path} is among the exams to learn from and to test on.", "Give each set its own.")


def _write_partitions(path: Path, exams: StudyExams) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("set", "split", "id", "patient_id", "class", "smallest_part_percent"))
    smallest = {exam.id: fraction for fraction in sorted(exams.parts, reverse=True) for exam in exams.parts[fraction]}
    for name, splits in (("institution1", exams.first), ("institution2", exams.second)):
        for split, members in splits.items():
            for exam in members:
                part = fraction_name(smallest[exam.id]) if name == "institution2" and exam.id in smallest else ""
                writer.writerow((name, split, exam.id, exam.patient_id, exam.label, part))
    for name, members in exams.synthetic.items():
        for exam in members:
            writer.writerow((f"synthetic-{name}", "train", exam.id, exam.patient_id, exam.label, ""))
    write_text(path, text.getvalue())


def _make_run(study: Study, run: Run, exams: StudyExams, out: Path, device: str, say: Say) -> None:
    """Trains one classifier and writes its predictions for institution 2's test exams, which end the run."""
    from ..training.classifier import STAGE, ClassifierTraining, classifier_defaults, select_channels, train_classifier
    from ..training.config import resolve_options
    from ..zoo.card import read_card
    from ..zoo.registry import find_card

    folder = run.folder(out)
    template = select_channels(find_card(study.classifier), study.sequences[run.sequences])
    start = run.start
    card = template if start is None else read_card(start.folder(out) / "card.toml")
    explicit: dict[str, Any] = {
        **study.options[run.stage], "seed": study.seed + run.trial, "device": None if device == "auto" else device,
    }  # fmt: skip
    defaults = classifier_defaults(card, finetune=start is not None)
    options = resolve_options(ClassifierTraining, STAGE, defaults, explicit)
    if run.fraction > ZERO_SHOT:
        training = exams.parts[run.fraction]
    else:
        training = exams.synthetic[run.sequences] if run.pretraining == "synthetic" else exams.first["train"]
    judged = (exams.first if study.validation == "institution1" else exams.second)["validation"]
    cache = out / "cache"
    train_classifier(card, training, judged, folder, options, cache=cache, resume=True, log=say)
    predict_test(folder, exams.second["test"], cache, device)
    # The weights are in the model folder; a hundred runs' checkpoints would fill a disk.
    shutil.rmtree(folder / "training" / STAGE / "checkpoints", ignore_errors=True)


def predict_test(folder: Path, exams: Sequence[Exam], cache: Path, device: str) -> None:
    """Writes the predictions of a model folder's classifier for labelled exams."""
    import torch

    from ..export.runtimes import choose_runtime
    from ..pipeline.classify import PART, prediction_entry
    from ..pipeline.prediction_table import Prediction, write_table
    from ..training.classifier_data import labelled_images
    from ..zoo.card import read_card

    card = read_card(folder / "card.toml")
    runtime = choose_runtime("torch", card, device=device)
    network: Any = runtime.load(card, PART)
    images = labelled_images(exams, card.image, cache, name="test")
    rows = []
    with torch.inference_mode():
        for number, name in enumerate(images.ids):
            logits = network(images.image(number)[None].to(runtime.device))
            probability = float(logits.float().softmax(1)[0, 1])
            rows.append(Prediction(name, images.patient_ids[number], probability, images.labels[number]))
    if not all(0.0 <= row.probability <= 1.0 for row in rows):
        raise InputError(f"The classifier in {folder} gives probabilities that are no numbers.", "Train it anew.")
    write_table(folder / PREDICTIONS, rows, prediction_entry(card, runtime))

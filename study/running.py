"""Running a study: exams, then one training and its predictions after the other; what is done is kept."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json
from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..pipeline.run_lock import RunLock
from ..pipeline.seeds import Shard
from .checks import check_study
from .definition import Study
from .exams import StudyExams, gather_exams
from .inputs import STUDY_FILE, check_models, record_inputs
from .plan import ZERO_SHOT, Run, plan_runs
from .sharing import Say, chain_of, hold, share_runs

PREDICTIONS = "predictions.csv"


def run_study(
    study: Study, out: Path, *, device: str = "auto", say: Say = lambda line: None, shard: Shard | None = None
) -> int:
    """Runs what is missing of a study, or of one shard of it.

    Args:
        study: What to run.
        out: The study folder; made where missing.
        device: Where networks run: auto, cpu or cuda.
        say: Takes lines for people.
        shard: This process's share; other processes may do the others at the same time.

    Returns:
        Number of runs that were made now.

    Raises:
        InputError: The folder is of another study, its runs were made from other exams or models, or exams cannot be
            used.
        RunFolderError: Another process works in the folder.
        TrainingInterrupted: Stopped; the same call goes on.
    """
    check_study(study)
    claim_folder(study, out)
    lock = RunLock(out, shard, say)
    lock.end_setup()
    try:
        runs = list(plan_runs(study))
        mine = share_runs(runs, shard)
        missing = [run for run in mine if not _is_done(run, out)]
        say(f"{len(mine) - len(missing)} of {len(mine)} runs{f' of shard {shard}' if shard else ''} are done.")
        made = 0
        if missing:
            check_models(study, out, say)
            exams = gather_exams(study, out, device, say, shard)
            record_inputs(study, exams, out, say)
            for run in missing:
                # Shards of another number may have begun the same chain.
                with hold(out, "-".join(map(str, ("chain", *chain_of(run)))), say):
                    if not _is_done(run, out):
                        say(f"Run {runs.index(run) + 1} of {len(runs)}: {run}.")
                        _make_run(study, run, exams, out, device, say)
                        made += 1
        return made
    finally:
        lock.release()


def _is_done(run: Run, out: Path) -> bool:
    return (run.folder(out) / PREDICTIONS).is_file()


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
    judged = validation_exams(study, run, exams)
    cache = out / "cache"
    train_classifier(card, training, judged, folder, options, cache=cache, resume=True, log=say)
    predict_test(folder, exams.second["test"], cache, device)
    # The weights are in the model folder; a hundred runs' checkpoints would fill a disk.
    shutil.rmtree(folder / "training" / STAGE / "checkpoints", ignore_errors=True)


def validation_exams(study: Study, run: Run, exams: StudyExams) -> Sequence[Exam]:
    """The exams that choose a run's weights; a zero-shot point sees nothing of institution 2."""
    second = study.validation == "institution2" and run.fraction > ZERO_SHOT
    return (exams.second if second else exams.first)["validation"]


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

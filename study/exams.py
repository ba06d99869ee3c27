"""The exams of a study: made or found, divided into splits and parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..pipeline.seeds import Shard
from .definition import Study
from .partitions import partition_exams, split_exams
from .sharing import Say, hold
from .sources import institution_exams, sample_exams, synthetic_exams


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


def gather_exams(study: Study, out: Path, device: str, say: Say, shard: Shard | None = None) -> StudyExams:
    """Finds or makes the exams of a study, and divides them.

    Args:
        study: The study.
        out: Its folder.
        device: Where models sample.
        say: Takes lines for people.
        shard: This process's share of the study: exams are sampled in shares, and awaited.

    Raises:
        InputError: Exams cannot be used, or an exam to test on is trained on.
    """
    from ..training.classifier_data import check_labelled

    channels = list(dict.fromkeys(name for names in study.sequences.values() for name in names))
    split = []
    for number, source in enumerate(study.institutions, 1):
        with hold(out, "exams", say):
            exams = institution_exams(source, channels, out / "data" / f"institution{number}", say)
        # Two institutions may number their patients alike.
        exams = [replace(exam, patient_id=f"institution{number}-{exam.patient_id}") for exam in exams]
        check_labelled(exams, f"institution {number}")
        split.append(split_exams(exams, study.split, study.seed, f"Institution {number}"))
    first, second = split
    _check_files([exam for exams in first.values() for exam in exams], second["test"])
    synthetic = _synthetic(study, first["train"], out, device, say, shard) if "synthetic" in study.pretraining else {}
    for each in synthetic.values():
        _check_files(each, second["test"])
    return StudyExams(first, second, partition_exams(second["train"], study.fractions, study.seed), synthetic)


def _synthetic(
    study: Study, reports: Sequence[Exam], out: Path, device: str, say: Say, shard: Shard | None
) -> dict[str, list[Exam]]:
    """The synthetic exams by sequence set; sets that name the same samples share them."""
    from ..training.classifier_data import check_labelled

    folders: list[tuple[object, Path]] = []
    found = {}
    for name, channels in study.sequences.items():
        source = study.synthetic[name]
        folder = next((path for sample, path in folders if sample == source.sample), None)
        if folder is None:
            folder = out / "data" / f"synthetic-{name}"
            if source.sample is not None:
                sample_exams(source.sample, reports, folder, out, device, say, shard)
                folders.append((source.sample, folder))
        found[name] = synthetic_exams(source, reports, channels, folder)
        check_labelled(found[name], f"synthetic {name}")
    return found


def _check_files(training: Sequence[Exam], test: Sequence[Exam]) -> None:
    """Refuses a test exam whose file is trained on."""
    learnt = {path.resolve() for exam in training for path in exam.files.values()}
    for exam in test:
        for path in exam.files.values():
            if path.resolve() in learnt:
                raise InputError(f"{path} is among the exams to learn from and to test on.", "Give each set its own.")

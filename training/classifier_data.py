"""Labelled exams as training samples of a classifier, standardised once into one memory-mapped file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..imaging.atomic import atomic_path, write_json
from ..imaging.digests import digest_channels, stamp_source
from ..imaging.errors import InputError
from ..imaging.exams import Exam, find_exams
from ..imaging.spec import ImageSpec
from ..imaging.standardisation import standardise_exam
from .splits import digest_words
from .task import Log, no_log

_NAMED = 5


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Standardised exams with their class.

    Attributes:
        array: float16, exams x channels x the image's axes; memory-mapped.
        ids: Of the exams.
        patient_ids: Of the exams.
        labels: 0 or 1.
        contents: Digest of each exam's files.
        digest: Of the exams, what their files hold, their labels and the grid; not of where they lie.
    """

    array: np.ndarray
    ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    labels: tuple[int, ...]
    contents: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Tensor:
        """A sample, float32 [C, *shape]."""
        return torch.from_numpy(self.array[index].astype(np.float32))

    def describe(self) -> dict[str, str]:
        """Content and class by exam, so that a resumption can name the exams that changed."""
        rows = zip(self.ids, self.contents, self.labels, strict=True)
        return {name: f"{content} {label}" for name, content, label in rows}


def labelled_images(
    exams: Sequence[Exam], spec: ImageSpec, cache: Path, *, name: str, log: Log = no_log
) -> LabelledImages:
    """Standardises labelled exams.

    Args:
        exams: With a class each, of both classes, ids distinct.
        spec: The classifier's image.
        cache: Folder for the arrays, so that neither an epoch nor another run reads the exams again, unless a file has
            moved or changed.
        name: What the exams are, for messages.
        log: Takes lines for people.

    Returns:
        The samples, sorted by id.

    Raises:
        InputError: An id comes twice, an exam has no class, one class is missing, or an exam cannot be used.
    """
    check_labelled(exams, name)
    ordered = sorted(exams, key=lambda exam: exam.id)
    path = cache / f"classifier-{_stamp_images(ordered, spec)[:16]}.npy"
    listing = path.with_suffix(".json")
    # The listing is written last: without it the array may be of a run that was killed.
    if not (path.is_file() and listing.is_file()):
        _standardise(path, ordered, spec, name, log)
        write_json(listing, [digest_channels(exam.files, spec.channel_names) for exam in ordered])
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    contents = tuple(map(str, json.loads(listing.read_text(encoding="utf-8"))))
    labels = tuple(int(exam.label or 0) for exam in ordered)
    ids, patients = tuple(exam.id for exam in ordered), tuple(exam.patient_id for exam in ordered)
    digest = digest_words([repr(spec), *ids, *contents, *map(str, labels)])
    return LabelledImages(array, ids, patients, labels, contents, digest)


def gather_exams(sources: Sequence[Path], channels: Sequence[str]) -> list[Exam]:
    """Finds the exams of several folders and manifests, real and sampled ones mixed.

    A sampled exam is named after its prompt, and so often after the real exam whose report that was. Where an exam of
    another source has its id, the sampled exams of the n-th source are called `synthetic-<n>-<id>`.

    Args:
        sources: See `imaging.exams.find_exams`.
        channels: Channels that every exam must have.

    Returns:
        The exams in the order of the sources.

    Raises:
        InputError: A source cannot be used, or the same sampled exam is in two of them.
    """
    groups = [find_exams(source, channels) for source in sources]
    taken = {exam.id for group in groups for exam in group if not _is_sampled(exam)}
    files: set[Path] = set()
    found: list[Exam] = []
    for number, group in enumerate(groups, 1):
        sampled = [exam for exam in group if _is_sampled(exam)]
        for exam in sampled:
            own = {path.resolve() for path in exam.files.values()}
            if own & files:
                raise InputError(f"The files of {exam.id!r} in {sources[number - 1]} come twice.", "Name them once.")
            files |= own
        prefix = f"synthetic-{number}-" if any(exam.id in taken for exam in sampled) else ""
        named = [replace(exam, id=prefix + exam.id) if _is_sampled(exam) else exam for exam in group]
        taken |= {exam.id for exam in named}
        found += named
    return found


def _is_sampled(exam: Exam) -> bool:
    """Whether a model made the exam from a report, as its record says."""
    return exam.meta.get("synthetic") is True and "sampler" in exam.meta


def _report_owner(exam: Exam) -> str:
    """The exam that the report was written for: of a sampled exam its prompt."""
    return str(exam.meta.get("prompt_id") or exam.meta["id"]) if _is_sampled(exam) else exam.id


def check_labelled(exams: Sequence[Exam], name: str) -> None:
    """Refuses exams from which no classifier can learn or be judged; `name` says what they are.

    Raises:
        InputError: There is no exam, an id comes twice, an exam has no class, or all are of one class.
    """
    if not exams:
        raise InputError(f"The {name} exams are none.", "Give a folder or manifest of exams.")
    seen: set[str] = set()
    for exam in exams:
        if exam.id in seen:
            raise InputError(f"The {name} exams hold the id {exam.id!r} twice.", "Give every exam an id of its own.")
        seen.add(exam.id)
    without = [exam.id for exam in exams if exam.label is None]
    if without:
        raise InputError(
            f"{len(without)} of the {len(exams)} {name} exams have no class: {abridge(without)}.",
            "Give each a class of 1 or 0: a column `class` of the manifest, or a row of marksheet.csv with their ids.",
        )
    classes = {exam.label for exam in exams}
    if len(classes) < 2:
        raise InputError(f"All {len(exams)} {name} exams are of class {classes.pop()}.", "Give exams of both classes.")


def check_apart(training: Sequence[Exam], others: Sequence[Exam], name: str) -> None:
    """Raises InputError where a patient of the training exams is among the `name` exams too.

    An exam that was sampled from a patient's report counts as that patient's: it shows what the report says.
    """
    shared = sorted({exam.patient_id for exam in training} & {exam.patient_id for exam in others})
    if shared:
        raise InputError(
            f"{len(shared)} patients are among the training and the {name} exams: {abridge(shared)}.",
            "Keep every patient on one side, and what was sampled from the patient's reports with them.",
        )
    owners = [{_report_owner(exam) for exam in exams} for exams in (training, others)]
    sampled = {_report_owner(exam) for exam in (*training, *others) if _is_sampled(exam)}
    shared = sorted(owners[0] & owners[1] & sampled)
    if shared:
        raise InputError(
            f"{len(shared)} exams are on both sides, their images or what was sampled from their reports, in training "
            f"and {name}: {abridge(shared)}.",
            "Sample from the reports of training patients alone.",
        )


def abridge(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _standardise(path: Path, exams: Sequence[Exam], spec: ImageSpec, name: str, log: Log) -> None:
    log(f"Preparing {len(exams)} {name} exams into {path}.")
    with atomic_path(path) as temporary:
        shape = (len(exams), *spec.array_shape)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for number, exam in enumerate(exams):
            array[number] = standardise_exam(exam, spec)
        array.flush()


def _stamp_images(exams: Sequence[Exam], spec: ImageSpec) -> str:
    """Names a cached array: another one is due where a file has moved or changed."""
    words = [repr(spec)]
    for exam in exams:
        words += [exam.id, *(stamp_source(exam.files[channel]) for channel in spec.channel_names)]
    return digest_words(words)

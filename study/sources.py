"""The exams of a study: found, made as phantoms, or sampled from reports."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..imaging.errors import InputError
from ..imaging.exams import Exam, find_exams
from ..pipeline.seeds import Shard
from .definition import Source, Study
from .sharing import Say, hold

if TYPE_CHECKING:
    from ..pipeline.sampler_settings import SampleSettings
    from ..zoo.card import Card

BATCH_SIZE = 4  # samples denoised together


def institution_exams(source: Source, channels: Sequence[str], folder: Path, say: Say) -> list[Exam]:
    """The exams of an institution.

    Args:
        source: Of the study file.
        channels: All channels that the study needs.
        folder: Where phantoms go; complete ones are kept.
        say: Takes lines for people.

    Raises:
        InputError: See `find_exams` and `write_phantoms`.
    """
    if source.exams is not None:
        return find_exams(source.exams, channels)
    assert source.phantoms is not None
    from ..imaging.phantom.dataset import write_phantoms

    table = source.phantoms
    say(f"Making {table['count']} phantoms in {folder}.")
    made = write_phantoms(
        folder, table["count"], table.get("seed", 0), institution=table.get("institution", 1),
        start=table.get("start", 0), prevalence=table.get("prevalence"), workers=1,
    )  # fmt: skip
    wanted = {str(record["id"]) for record in made}
    return [exam for exam in find_exams(folder, channels) if exam.id in wanted]


@dataclass(frozen=True)
class FoundExams:
    """Exams of a study that is done, in part or whole.

    Attributes:
        first: Institution 1's training exams.
        second: Institution 2's.
        synthetic: Synthetic exams by sequence set.
    """

    first: Sequence[Exam]
    second: Sequence[Exam]
    synthetic: Mapping[str, Sequence[Exam]]


def find_study_exams(study: Study, out: Path) -> FoundExams:
    """Finds the training exams of a study where its runs found them; makes none.

    Raises:
        InputError: Exams are not there any more.
        OSError: There is no table of who is in which set.
    """
    with (out / "partitions.csv").open(encoding="utf-8", newline="") as file:
        members = {(row["set"], row["id"]): row for row in csv.DictReader(file) if row["split"] == "train"}
    channels = list(dict.fromkeys(name for names in study.sequences.values() for name in names))
    both = []
    for name, source in zip(("institution1", "institution2"), study.institutions, strict=True):
        found = find_exams(source.exams or out / "data" / name, channels)
        mine = [exam for exam in found if (name, exam.id) in members]
        both.append([replace(exam, patient_id=members[name, exam.id]["patient_id"]) for exam in mine])
    synthetic: dict[str, Sequence[Exam]] = {}
    folders: list[tuple[object, Path]] = []
    for name, names in study.sequences.items():
        if "synthetic" in study.pretraining:
            source = study.synthetic[name]
            shared = (path for sample, path in folders if sample == source.sample)
            folder = next(shared, out / "data" / f"synthetic-{name}")
            folders.append((source.sample, folder))
            synthetic[name] = synthetic_exams(source, both[0], names, folder)
    return FoundExams(both[0], both[1], synthetic)


def synthetic_exams(source: Source, reports: Sequence[Exam], channels: Sequence[str], folder: Path) -> list[Exam]:
    """The synthetic exams of a sequence set.

    Args:
        source: Of the study file.
        reports: Institution 1's training exams, whose reports are the prompts.
        channels: Of the sequence set.
        folder: Where `sample_exams` put what the model made.

    Returns:
        Exams labelled by the model's class head, or by the exam whose report was the prompt.

    Raises:
        InputError: The exams cannot be found, or lack a channel.
    """
    if source.exams is not None:
        return find_exams(source.exams, channels)
    assert source.sample is not None
    wanted = {exam.id: exam for exam in reports}
    exams = [exam for exam in find_exams(folder, channels) if exam.id in wanted]
    # Its patient is one of institution 1's training exams by choice of the prompts; another institution may number its
    # patients and exams alike, so neither name is kept.
    exams = [
        replace(exam, id=f"synthetic-{exam.id}", patient_id=f"synthetic-{exam.patient_id}", meta={}) for exam in exams
    ]
    if source.sample.get("labels", "model") == "exam":
        exams = [replace(exam, label=wanted[exam.id.removeprefix("synthetic-")].label) for exam in exams]
    return exams


def generator_settings(table: Mapping[str, Any]) -> "tuple[Card, SampleSettings]":
    """The model of a `sample` table of the study file, and how it samples.

    Raises:
        UnknownModelError: There is no such model.
        InputError: The model has no such preset, or cannot take so many steps.
    """
    from ..pipeline.sampler_settings import choose_settings
    from ..zoo.registry import find_card

    card = find_card(str(table["model"]))
    return card, choose_settings(card, preset=table.get("preset"), steps=table.get("steps"), batch_size=BATCH_SIZE)


def sample_exams(
    table: Mapping[str, Any], reports: Sequence[Exam], folder: Path, study: Path, device: str, say: Say,
    shard: Shard | None = None,
) -> None:  # fmt: skip
    """Samples one exam per report; complete ones are kept.

    Args:
        table: Model, preset and steps.
        reports: Institution 1's training exams.
        folder: Where samples go.
        study: The study folder, whose locks say which process samples what.
        device: Where the model runs.
        say: Takes lines for people.
        shard: The process's share comes first; then it makes or awaits the others, since all exams are needed.

    Raises:
        InputError: Institution 1 has no reports; and see `generator_settings`.
    """
    silent = [exam.id for exam in reports if not (exam.text or "").strip()]
    if silent:
        raise InputError(
            f"{len(silent)} training exams of institution 1 have no report to sample from, such as {silent[0]}.",
            "Add reports, or give synthetic exams that are made already: exams = PATH.",
        )
    for each in _plan_shards(folder, shard):
        with hold(study, f"{folder.name}{'' if each is None else each.suffix}", say):
            _sample(table, reports, folder, device, say, each)


def _plan_shards(folder: Path, shard: Shard | None) -> list[Shard | None]:
    """The shares in which this process samples, its own first; one whole where the folder was begun otherwise."""
    if shard is None:
        return [None]
    try:
        begun = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("shards")
    except FileNotFoundError:
        begun = shard.count
    if begun != shard.count:
        return [None]
    return [Shard((shard.index - 1 + k) % shard.count + 1, shard.count) for k in range(shard.count)]


def _sample(
    table: Mapping[str, Any], reports: Sequence[Exam], folder: Path, device: str, say: Say, shard: Shard | None
) -> None:
    from ..export.runtimes import choose_runtime
    from ..pipeline.prompts import PromptItem, expand_seeds
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..pipeline.sample import sample
    from ..zoo.loading import load_text_encoder

    card, settings = generator_settings(table)
    runtime = choose_runtime("torch", card, device=device)
    items = expand_seeds([PromptItem(exam.id, exam.text or "") for exam in reports], None)
    items = list(items if shard is None else shard.select(items))
    recorded = settings.run_settings(model_entry(card), runtime.precision, runtime)
    say(f"Sampling {len(items)} exams with {card.id} into {folder}.")
    done: list[str] = []

    def count(item_id: str, error: Exception | None) -> None:
        done.append(item_id)
        if len(done) * 10 // len(items) > (len(done) - 1) * 10 // len(items):
            say(f"sampled {len(done)} of {len(items)} exams")

    with (
        _for_the_study(folder),
        RunFolder(folder, command="sample", settings=recorded, resume=True, shard=shard, warn=say) as run,
    ):
        records = sample(
            items, card, text_encoder=load_text_encoder(card, device=str(runtime.device)),
            denoiser=runtime.load(card, "denoiser"), autoencoder=runtime.load(card, "autoencoder"), run=run,
            runtime=runtime, settings=settings, warn=say, on_item=count,
        )  # fmt: skip
        for _ in records:
            pass


@contextmanager
def _for_the_study(folder: Path) -> Iterator[None]:
    """A run folder's remedies name options of `ccella sample`, which `ccella study` has not."""
    from ..pipeline.errors import RunFolderError

    try:
        yield
    except RunFolderError as error:
        remedy = f"Give another study folder with -o; or, where no run is done yet, remove {folder}."
        if isinstance(error.__cause__, OSError):
            remedy = "Make room or set permissions, then give the same command again."
        raise RunFolderError(str(error), remedy) from error.__cause__

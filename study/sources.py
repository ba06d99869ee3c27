"""The exams of a study: found, made as phantoms, or sampled from reports."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..imaging.errors import InputError
from ..imaging.exams import Exam, find_exams
from .definition import Source

Say = Callable[[str], None]


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


def synthetic_exams(
    source: Source, reports: Sequence[Exam], channels: Sequence[str], folder: Path, device: str, say: Say
) -> list[Exam]:
    """The synthetic exams of a sequence set.

    Args:
        source: Of the study file.
        reports: Institution 1's training exams, whose reports are the prompts.
        channels: Of the sequence set.
        folder: Where samples go; complete ones are kept.
        device: Where the model runs.
        say: Takes lines for people.

    Returns:
        Exams labelled by the model's class head, or by the exam whose report was the prompt.

    Raises:
        InputError: The exams cannot be found, or institution 1 has no reports.
        CardError: The model lacks a channel.
    """
    if source.exams is not None:
        return find_exams(source.exams, channels)
    assert source.sample is not None
    _sample(dict(source.sample), reports, folder, device, say)
    wanted = {exam.id: exam for exam in reports}
    exams = [exam for exam in find_exams(folder, channels) if exam.id in wanted]
    # A synthetic exam is no exam of the patient whose report it was made from.
    exams = [replace(exam, id=f"synthetic-{exam.id}", patient_id=f"synthetic-{exam.patient_id}") for exam in exams]
    if source.sample.get("labels", "model") == "exam":
        exams = [replace(exam, label=wanted[exam.id.removeprefix("synthetic-")].label) for exam in exams]
    return exams


def _sample(table: dict[str, object], reports: Sequence[Exam], folder: Path, device: str, say: Say) -> None:
    from ..export.runtimes import choose_runtime
    from ..pipeline.prompts import PromptItem, expand_seeds
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..pipeline.sample import sample
    from ..pipeline.sampler_settings import choose_settings
    from ..zoo.loading import load_text_encoder
    from ..zoo.registry import find_card

    silent = [exam.id for exam in reports if not (exam.text or "").strip()]
    if silent:
        raise InputError(
            f"{len(silent)} training exams of institution 1 have no report to sample from, such as {silent[0]}.",
            "Add reports, or give synthetic exams that are made already: exams = PATH.",
        )
    card = find_card(str(table["model"]))
    steps = table.get("steps")
    settings = choose_settings(card, steps=steps if isinstance(steps, int) else None, batch_size=4)
    runtime = choose_runtime("torch", card, device=device)
    items = expand_seeds([PromptItem(exam.id, exam.text or "") for exam in reports], None)
    recorded = settings.run_settings(model_entry(card), runtime.precision, runtime.name)
    say(f"Sampling {len(items)} exams with {card.id} into {folder}.")
    done: list[str] = []

    def count(item_id: str, error: Exception | None) -> None:
        done.append(item_id)
        if len(done) * 10 // len(items) > (len(done) - 1) * 10 // len(items):
            say(f"sampled {len(done)} of {len(items)} exams")

    with RunFolder(folder, command="sample", settings=recorded, resume=folder.exists(), warn=say) as run:
        records = sample(
            items, card, text_encoder=load_text_encoder(card, device=str(runtime.device)),
            denoiser=runtime.load(card, "denoiser"), autoencoder=runtime.load(card, "autoencoder"), run=run,
            runtime=runtime, settings=settings, warn=say, on_item=count,
        )  # fmt: skip
        for _ in records:
            pass

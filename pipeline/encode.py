"""Encode: exams in, latents out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..imaging.atomic import write_json
from ..imaging.digests import digest_source
from ..imaging.errors import InputError
from ..imaging.exams import Exam, PreparedExam, is_synthetic, load_exam
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.record import Record
from .data_report import describe_data
from .errors import FailureLog
from .latents import latent_name, read_tensors, text_path, write_tensors
from .provenance import execution_entry, licence_entry, model_entry
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..export.runtimes import Runtime
    from ..zoo.families.ccella.text import TextEncoder

ItemCallback = Callable[[str, Exception | None], None]


@dataclass(frozen=True)
class _Encoder:
    """What every exam of a run needs."""

    card: Card
    autoencoder: torch.nn.Module
    text_encoder: "TextEncoder | None"
    run: RunFolder
    runtime: "Runtime"
    common: dict[str, Any]

    def find(self, exam: Exam) -> list[Record] | None:
        """The exam's record where it is done, its text embedding included."""
        expected: dict[str, Any] = {"prompt": exam.text or None, "class": exam.label}
        records = self.run.find_done(exam.id, [latent_name(exam.id)], expected)
        if records is None:
            return None
        stored = records[0].data.get("text_path")
        return records if stored is None or self._is_whole(stored) else None

    def _is_whole(self, stored: str) -> bool:
        try:
            return "embedding" in read_tensors(self.run.path / stored)
        except InputError:
            return False

    def embed(self, text: str) -> tuple[str | None, bool]:
        """Stores the embedding of a report. Returns its path inside the run folder and whether the report was cut."""
        if self.text_encoder is None:
            return None, False
        stored = text_path(text, self.text_encoder.digest)
        cut = self.text_encoder.count_tokens(text).truncated
        if not self._is_whole(stored):
            # Half as many bytes, and nothing lost: the encoder computed in this format.
            embedding, dtype = self.text_encoder.encode([text])[0], self.text_encoder.dtype
            self.run.write_file(
                self.run.path / stored, lambda path: write_tensors(path, {"embedding": embedding}, dtype)
            )
        return stored, cut

    def encode(self, exam: Exam) -> Record:
        """Encodes one exam and writes its latent."""
        prepared = load_exam(exam, self.card.image)
        stored, cut = self.embed(exam.text or "")
        x = torch.from_numpy(prepared.array)[None].to(self.runtime.device, self.runtime.dtype)
        with torch.inference_mode():
            mean, sigma = load_family(self.card.family).encode_image(self.card, self.autoencoder, x)
        moments = {"mean": mean[0].float(), "sigma": sigma[0].float()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in moments.values()):
            raise ArithmeticError("The autoencoder gave values that are not finite.")
        spacing = np.linalg.norm(prepared.affine[:3, :3], axis=0).tolist()
        files = [exam.files[name] for name in self.card.image.channel_names]
        record = Record(
            exam.id,
            "latent",
            self.run.artefact_path(exam.id, latent_name(exam.id)),
            {
                "channels": list(self.card.image.channel_names),
                "patient_id": exam.patient_id,
                "synthetic": is_synthetic(exam),
                "prompt": exam.text or None,
                "prompt_truncated": cut,
                "text_path": stored,
                "class": exam.label,
                "spacing_mm": [round(value, 6) for value in spacing],
                "affine": prepared.affine.tolist(),
                "intensity": prepared.intensity_params,
                "shape": list(mean.shape[1:]),
                "parents": [{"path": path.as_posix(), "sha256": digest_source(path)} for path in files],
                "source": _source_entry(prepared, self.card.image.channel_names),
                **self.common,
            },
        )
        return self.run.write_artefact(record, lambda path: write_tensors(path, moments))


def _source_entry(prepared: PreparedExam, names: Sequence[str]) -> dict[str, Any]:
    """What the exam was like on disk, for the data report."""
    spacing = np.linalg.norm(prepared.source_affine[:3, :3], axis=0).tolist()
    tables = [{key: float(f"{value:.6g}") for key, value in table.items()} for table in prepared.percentiles]
    return {
        "shape": list(prepared.source_shape),
        "spacing_mm": [round(value, 6) for value in spacing],
        "percentiles": dict(zip(names, tables, strict=True)),
    }


def encode(
    exams: Iterable[Exam],
    card: Card,
    *,
    autoencoder: torch.nn.Module,
    text_encoder: "TextEncoder | None",
    run: RunFolder,
    runtime: "Runtime",
    on_item: ItemCallback | None = None,
    splits: Mapping[str, str] | None = None,
    problems: Sequence[tuple[str, InputError]] = (),
) -> Iterator[Record]:
    """Encodes exams one by one: memory does not grow with their number.

    Args:
        exams: What to encode, in the order of the manifest.
        card: The model.
        autoencoder: Its autoencoder.
        text_encoder: Its text encoder; None leaves reports unembedded.
        run: Where latents go: `mean` and `sigma` float32 C x y z per exam, and each report's embedding once.
        runtime: Device and precision of the networks.
        on_item: Called with an exam's id when it is through: with None, or with what it failed of.
        splits: Split by patient, for the data report.
        problems: Exams that could not even be found whole, as `find_exams` tells them; they count as failed.

    At the end the run folder gets its data report, `data-report.json`.

    Yields:
        One record of kind `latent` per exam.

    Raises:
        InputError: No exam can be used.
        ItemsFailedError: At the end, when some exams failed; the others are done.
        RunFolderError: The folder is full or not writable.
    """
    common = {"model": model_entry(card), "licence": licence_entry(card), **execution_entry(runtime)}
    encoder = _Encoder(card, autoencoder, text_encoder, run, runtime, common)
    log = FailureLog()
    for item_id, problem in problems:
        log.total += 1
        log.add(item_id, problem)
    for exam in exams:
        log.total += 1
        try:
            records = encoder.find(exam)
            if records is None:
                records = [encoder.encode(exam)]
            else:
                run.keep(records)
        except (InputError, ArithmeticError) as error:
            log.add(exam.id, error)
            if on_item is not None:
                on_item(exam.id, error)
            continue
        yield from records
        if on_item is not None:
            on_item(exam.id, None)
    described = describe_data(run.records(), log.failures, splits)
    run.write_file(run.named("data-report.json"), lambda path: write_json(path, described))
    log.finish()

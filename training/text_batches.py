"""Endless batches of phantom reports with the findings they state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..imaging.phantom.brief import OPTIONAL, write_brief
from ..imaging.phantom.findings import Findings, draw_findings
from ..imaging.phantom.report import write_report

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPORT_STREAM = 7919  # first number of every report's seed: keeps these reports apart from any exam's
HELD_OUT_START = 100_000_000  # indices from here on are never trained on
INSTITUTION = 1  # the other one finds the same and words it alike, but writes cm for mm more often
BATCHES_PER_CHUNK = 16  # batches are sorted by length within a chunk


@dataclass(frozen=True)
class Reading:
    """A text with the findings behind it and the names of the facts that it leaves out."""

    text: str
    findings: Findings
    unstated: frozenset[str] = frozenset()


Encoded = tuple[list[int], Reading]


def draw_report(seed: int, index: int) -> Reading:
    """Return report number `index` of the pretraining stream; half have a prevalence of 0.28 and half of 0.6."""
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    findings = draw_findings(rng, INSTITUTION, prevalence=(0.28, 0.6)[index % 2])
    return Reading(write_report(findings, rng), findings)


def draw_confusing(seed: int, index: int, *, brief: bool) -> Reading:
    """Return text number `index` of those in which a side or level is named for more than the index lesion.

    There are two or more lesions, or a one-sided benign change; such exams are too rare in the plain stream.
    """
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    for _ in range(6):
        findings = draw_findings(rng, INSTITUTION, prevalence=0.9)
        if len(findings.lesions) > 1 or {findings.prostatitis, findings.haemorrhage} & {"left", "right"}:
            break
    if brief:
        text, stated = write_brief(findings, rng)
        return Reading(text, findings, frozenset(OPTIONAL) - stated)
    return Reading(write_report(findings, rng), findings)


def draw_brief(seed: int, index: int) -> Reading:
    """Return brief text number `index` of the pretraining stream, at a prevalence of 0.8."""
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    findings = draw_findings(rng, INSTITUTION, prevalence=0.8)
    text, stated = write_brief(findings, rng)
    return Reading(text, findings, frozenset(OPTIONAL) - stated)


def draw_reading(seed: int, index: int, *, late: bool) -> Reading:
    """Return text number `index` of the training stream.

    Early on there are four reports, then eight brief texts, and so on: brief texts are cheap and bind side, zone and
    level to one another quickly; they also are what people type. Late in training reports, confusing reports and
    confusing brief texts take turns.
    """
    turn = index // 4 % 3
    if turn == 0:
        return draw_report(seed, index)
    return draw_confusing(seed, index, brief=turn == 2) if late else draw_brief(seed, index)


def encode_readings(tokenizer: Tokenizer, readings: Sequence[Reading]) -> list[Encoded]:
    """Return (token ids, reading) pairs sorted by length."""
    encodings = tokenizer.encode_batch([reading.text for reading in readings])
    pairs = [(encoding.ids, reading) for encoding, reading in zip(encodings, readings, strict=True)]
    return sorted(pairs, key=lambda pair: len(pair[0]))


def pad_tokens(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] of B texts, padded on the right to the longest of them, and their mask [B, L]."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, tokens in enumerate(rows):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        mask[place, : len(tokens)] = True
    return ids, mask


def count_texts(steps: int, batch_size: int) -> int:
    """Texts in the chunks that a run of so many steps takes its batches from."""
    return -(-steps // BATCHES_PER_CHUNK) * BATCHES_PER_CHUNK * batch_size


class TextStream:
    """Endless texts in chunks, in which texts of like length share a batch, so that little is padding.

    What a step gets depends on the arguments and the step alone, which is what makes a resumed run exact. Texts are
    late ones from the first chunk on that starts at step `late_from` or after it.

    Args:
        tokenizer: Of the encoder.
        seed: Of the texts.
        batch_size: Texts per step.
        late_from: Step.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int, batch_size: int, late_from: int) -> None:
        self._tokenizer, self._seed, self._batch_size, self._late_from = tokenizer, seed, batch_size, late_from
        self._chunks: dict[int, list[Encoded]] = {}

    def indices(self, step: int) -> list[int]:
        """The texts of a step."""
        chunk, place = divmod(step, BATCHES_PER_CHUNK)
        order = np.random.default_rng([REPORT_STREAM, self._seed, chunk, 1]).permutation(BATCHES_PER_CHUNK)
        first = (chunk * BATCHES_PER_CHUNK + int(order[place])) * self._batch_size
        return list(range(first, first + self._batch_size))

    def __getitem__(self, index: int) -> Encoded:
        chunk, place = divmod(index, self._batch_size * BATCHES_PER_CHUNK)
        texts = self._chunks.get(chunk)
        if texts is None:
            texts = self._make(chunk)
            # Of the chunks before none is needed again.
            self._chunks = {chunk: texts}
        return texts[place]

    def _make(self, chunk: int) -> list[Encoded]:
        size = self._batch_size * BATCHES_PER_CHUNK
        late = chunk * BATCHES_PER_CHUNK >= self._late_from
        numbers = range(chunk * size, (chunk + 1) * size)
        readings = [draw_reading(self._seed, number, late=late) for number in numbers]
        return encode_readings(self._tokenizer, readings)

"""Endless batches of phantom reports with the findings they state."""

from __future__ import annotations

from collections.abc import Iterator
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
BATCHES_PER_CHUNK = 16  # batches are sorted by length within a chunk


@dataclass(frozen=True)
class Reading:
    """A text with the findings behind it and the names of the facts that it leaves out."""

    text: str
    findings: Findings
    unstated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TextBatch:
    """Token ids and mask [B, L] with what the B texts state."""

    ids: Tensor
    mask: Tensor
    readings: list[Reading]


def draw_report(seed: int, index: int) -> Reading:
    """Return report number `index` of the pretraining stream; half have a prevalence of 0.28 and half of 0.6."""
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    findings = draw_findings(rng, institution=1 + index // 2 % 2, prevalence=(0.28, 0.6)[index % 2])
    return Reading(write_report(findings, rng), findings)


def draw_confusing(seed: int, index: int, *, brief: bool) -> Reading:
    """Return text number `index` of those in which a side or level is named for more than the index lesion.

    There are two or more lesions, or a one-sided benign change; such exams are too rare in the plain stream.
    """
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    for _ in range(6):
        findings = draw_findings(rng, institution=1 + index % 2, prevalence=0.9)
        if len(findings.lesions) > 1 or {findings.prostatitis, findings.haemorrhage} & {"left", "right"}:
            break
    if brief:
        text, stated = write_brief(findings, rng)
        return Reading(text, findings, frozenset(OPTIONAL) - stated)
    return Reading(write_report(findings, rng), findings)


def draw_brief(seed: int, index: int) -> Reading:
    """Return brief text number `index` of the pretraining stream, at a prevalence of 0.8."""
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    findings = draw_findings(rng, institution=1 + index % 2, prevalence=0.8)
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


def encode_readings(tokenizer: Tokenizer, readings: list[Reading]) -> list[tuple[list[int], Reading]]:
    """Return (token ids, reading) pairs sorted by length."""
    encodings = tokenizer.encode_batch([reading.text for reading in readings])
    pairs = [(encoding.ids, reading) for encoding, reading in zip(encodings, readings, strict=True)]
    return sorted(pairs, key=lambda pair: len(pair[0]))


def collate_readings(pairs: list[tuple[list[int], Reading]]) -> TextBatch:
    """Pad encoded texts on the right to the longest of them."""
    longest = max(len(ids) for ids, _ in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, (tokens, _) in enumerate(pairs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
    return TextBatch(ids, mask, [reading for _, reading in pairs])


def iterate_batches(
    tokenizer: Tokenizer, seed: int, batch_size: int, first_step: int, late_from: int
) -> Iterator[TextBatch]:
    """Yield endless batches from step `first_step` on; texts of like length share a batch, so little is padding.

    The batch of a step depends on the arguments and the step alone, which is what makes a resumed run exact. The stream
    is the late one from the first chunk on that starts at step `late_from` or after it.
    """
    chunk, skip = divmod(first_step, BATCHES_PER_CHUNK)
    size = batch_size * BATCHES_PER_CHUNK
    while True:
        late = chunk * BATCHES_PER_CHUNK >= late_from
        readings = [draw_reading(seed, index, late=late) for index in range(chunk * size, (chunk + 1) * size)]
        pairs = encode_readings(tokenizer, readings)
        order = np.random.default_rng([REPORT_STREAM, seed, chunk, 1]).permutation(BATCHES_PER_CHUNK)
        for position in order[skip:]:
            yield collate_readings(pairs[position * batch_size : (position + 1) * batch_size])
        chunk, skip = chunk + 1, 0

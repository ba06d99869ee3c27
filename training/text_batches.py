"""Endless batches of phantom reports with the findings they state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..imaging.phantom.findings import Findings, draw_findings
from ..imaging.phantom.report import write_report

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPORT_STREAM = 7919  # first number of every report's seed: keeps these reports apart from any exam's
HELD_OUT_START = 100_000_000  # indices from here on are never trained on
BATCHES_PER_CHUNK = 16  # batches are sorted by length within a chunk


def draw_report(seed: int, index: int) -> tuple[Findings, str]:
    """Return report number `index` of the pretraining stream; half have a prevalence of 0.28 and half of 0.6."""
    rng = np.random.default_rng([REPORT_STREAM, seed, index])
    findings = draw_findings(rng, institution=1 + index // 2 % 2, prevalence=(0.28, 0.6)[index % 2])
    return findings, write_report(findings, rng)


@dataclass
class TextBatch:
    """Token ids and mask [B, L] with the findings that the texts state."""

    ids: Tensor
    mask: Tensor
    findings: list[Findings]


def collate_reports(items: list[tuple[list[int], Findings]]) -> TextBatch:
    """Pad encoded reports on the right to the longest of them."""
    longest = max(len(ids) for ids, _ in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, (tokens, _) in enumerate(items):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
    return TextBatch(ids, mask, [findings for _, findings in items])


def encode_reports(tokenizer: Tokenizer, seed: int, start: int, count: int) -> list[tuple[list[int], Findings]]:
    """Return (token ids, findings) of the reports `start` to `start + count - 1`."""
    pairs = [draw_report(seed, index) for index in range(start, start + count)]
    encodings = tokenizer.encode_batch([text for _, text in pairs])
    return [(encoding.ids, findings) for encoding, (findings, _) in zip(encodings, pairs, strict=True)]


def iterate_batches(tokenizer: Tokenizer, seed: int, batch_size: int, first_step: int) -> Iterator[TextBatch]:
    """Yield endless batches from step `first_step` on; reports of like length share a batch, so little is padding.

    The batch of a step depends on (seed, batch_size, step) alone, which is what makes a resumed run exact.
    """
    chunk, skip = divmod(first_step, BATCHES_PER_CHUNK)
    size = batch_size * BATCHES_PER_CHUNK
    while True:
        items = sorted(encode_reports(tokenizer, seed, chunk * size, size), key=lambda item: len(item[0]))
        order = np.random.default_rng([REPORT_STREAM, seed, chunk, 1]).permutation(BATCHES_PER_CHUNK)
        for position in order[skip:]:
            yield collate_reports(items[position * batch_size : (position + 1) * batch_size])
        chunk, skip = chunk + 1, 0

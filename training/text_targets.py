"""What the small text encoder is pretrained to tell: the findings, through linear heads on the mean of its tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log, nan

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..imaging.phantom.findings import BLADDER, BPH_GRADES, HAEMORRHAGE, PROSTATITIS, QUALITY, RECTUM, Findings
from ..imaging.phantom.lesion import LEVELS, SECTORS, SIDES, ZONES

REGIONS = tuple((zone, side, level) for zone in ZONES for side in SIDES for level in LEVELS)
ALL_SECTORS = tuple(dict.fromkeys(sector for zone in ZONES for sector in SECTORS[zone]))
IGNORED = -100  # class index that cross entropy leaves out


@dataclass(frozen=True)
class Head:
    """One linear read-out: `flags` (independent yes/no), `class` (one of `width`) or `number` (standardised)."""

    name: str
    kind: str
    width: int
    weight: float = 1.0


HEADS = (
    Head("lesion", "flags", 1),
    Head("regions", "flags", len(REGIONS), 4.0),
    Head("side", "class", len(SIDES), 2.0),
    Head("zone", "class", len(ZONES), 2.0),
    Head("level", "class", len(LEVELS), 2.0),
    Head("sector", "class", len(ALL_SECTORS)),
    Head("pirads", "class", 3),
    Head("count", "class", 4),
    Head("diameter", "number", 1, 2.0),
    Head("volume", "number", 1),
    Head("bph", "class", len(BPH_GRADES), 0.5),
    Head("prostatitis", "class", len(PROSTATITIS), 0.5),
    Head("haemorrhage", "class", len(HAEMORRHAGE), 0.5),
    Head("rectum", "class", len(RECTUM), 0.5),
    Head("bladder", "class", len(BLADDER), 0.5),
    Head("quality", "class", len(QUALITY), 0.25),
    Head("seminal_vesicle_invasion", "flags", 1, 0.5),
    Head("extension", "flags", 1, 0.5),
)


def findings_targets(findings: Findings) -> dict[str, list[float]]:
    """Return one exam's target for every head; index-lesion targets are left out (-100 or nan) when there is none.

    Class targets are indices into the tuples of `phantom.findings`; the diameter is standardised as (mm - 14) / 5, the
    volume as ln(mL / 57) / 0.5.
    """
    index = findings.lesions[0] if findings.lesions else None
    present = {(lesion.zone, lesion.side, lesion.level) for lesion in findings.lesions}
    return {
        "lesion": [float(findings.positive)],
        "regions": [float(region in present) for region in REGIONS],
        "side": [SIDES.index(index.side) if index else IGNORED],
        "zone": [ZONES.index(index.zone) if index else IGNORED],
        "level": [LEVELS.index(index.level) if index else IGNORED],
        "sector": [ALL_SECTORS.index(index.sector) if index else IGNORED],
        "pirads": [index.pirads - 3 if index else IGNORED],
        "count": [len(findings.lesions)],
        "diameter": [(index.diameter_mm - 14) / 5 if index else nan],
        "volume": [log(findings.volume_ml / 57) / 0.5],
        "bph": [BPH_GRADES.index(findings.bph)],
        "prostatitis": [PROSTATITIS.index(findings.prostatitis)],
        "haemorrhage": [HAEMORRHAGE.index(findings.haemorrhage)],
        "rectum": [RECTUM.index(findings.rectum)],
        "bladder": [BLADDER.index(findings.bladder)],
        "quality": [QUALITY.index(findings.quality)],
        "seminal_vesicle_invasion": [float(findings.seminal_vesicle_invasion)],
        "extension": [float(any(lesion.extension for lesion in findings.lesions))],
    }


def stack_targets(batch: Sequence[Findings], unstated: Sequence[Collection[str]] | None = None) -> dict[str, Tensor]:
    """Return the targets of a batch: flags and numbers [B, width] float32, classes [B] int64.

    Args:
        batch: Findings of the B texts.
        unstated: For each text the heads (classes or numbers) whose fact it does not state; their targets are left out.
    """
    rows = [findings_targets(findings) for findings in batch]
    for row, silent in zip(rows, unstated or [()] * len(rows), strict=True):
        for head in HEADS:
            if head.name in silent:
                row[head.name] = [IGNORED if head.kind == "class" else nan] * len(row[head.name])
    stacked = {}
    for head in HEADS:
        values = torch.tensor([row[head.name] for row in rows], dtype=torch.float32)
        stacked[head.name] = values[:, 0].long() if head.kind == "class" else values
    return stacked


class FindingHeads(nn.Module):
    """One linear layer from the pooled text [B, W] to all read-outs."""

    def __init__(self, width: int) -> None:
        """Build the heads for an encoder of the given width."""
        super().__init__()
        self.linear = nn.Linear(width, sum(head.width for head in HEADS))

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return the read-outs [B, head.width] by head name."""
        parts = self.linear(pooled).split([head.width for head in HEADS], dim=1)
        return {head.name: part for head, part in zip(HEADS, parts, strict=True)}


def heads_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return the weighted sum of the heads' losses; heads without a single known target add nothing."""
    total = torch.zeros(())
    for head in HEADS:
        output, target = outputs[head.name], targets[head.name]
        known = target != IGNORED if head.kind == "class" else ~target.isnan()
        if not known.any():
            continue
        if head.kind == "class":
            loss = functional.cross_entropy(output, target, ignore_index=IGNORED)
        elif head.kind == "flags":
            loss = functional.binary_cross_entropy_with_logits(output, target)
        else:
            loss = functional.mse_loss(output[known], target[known])
        total = total + head.weight * loss
    return total


def heads_figures(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, float]:
    """Return one figure per head over a held-out set: AUC for flags, accuracy for classes, R2 for numbers.

    Flags without both values in the set are left out; `regions` is the mean AUC over the regions that have both.
    """
    from sklearn.metrics import r2_score, roc_auc_score

    figures = {}
    for head in HEADS:
        output, target = outputs[head.name].numpy(), targets[head.name].numpy()
        if head.kind == "class":
            known = target != IGNORED
            if known.any():
                figures[f"{head.name}_accuracy"] = float(np.mean(output.argmax(1)[known] == target[known]))
        elif head.kind == "number":
            known = np.isfinite(target)
            if known.sum() > 1:
                figures[f"{head.name}_r2"] = float(r2_score(target[known], output[known]))
        else:
            both = [column for column in range(head.width) if 0 < target[:, column].mean() < 1]
            if both:
                areas = [roc_auc_score(target[:, column], output[:, column]) for column in both]
                figures[f"{head.name}_auc"] = float(np.mean(areas))
    return figures

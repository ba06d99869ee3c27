"""Short descriptions of a phantom exam: a few sentences, as somebody who types a prompt would write them."""

from __future__ import annotations

import numpy as np

from .findings import Findings
from .gland_text import VESICLES, describe_bph, describe_contents, describe_mimics, describe_quality, describe_volume
from .grammar import pick, say
from .lesion_text import NO_LESION, NO_RESTRICTION, describe_lesions, summarise_lesions

OPTIONAL = ("volume", "bph", "rectum", "bladder", "quality")


def write_brief(findings: Findings, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """Write the lesions and whatever is abnormal in a few sentences, and some of the other facts.

    Args:
        findings: What the exam shows.
        rng: The text's own generator.

    Returns:
        The text and which of `OPTIONAL` it states. Lesions, prostatitis, haemorrhage and seminal vesicle invasion are
        always stated where present, so silence about them means absence.
    """
    if findings.lesions:
        sentences = (describe_lesions if rng.random() < 0.5 else summarise_lesions)(findings, rng)
    else:
        sentences = [say(NO_LESION if rng.random() < 0.6 else NO_RESTRICTION, rng)]
    sentences += describe_mimics(findings, rng)
    if findings.seminal_vesicle_invasion:
        sentences.append(say(VESICLES, rng))
    stated = frozenset(name for name in OPTIONAL if rng.random() < 0.3)
    others = []
    if "volume" in stated:
        others.append(describe_volume(findings, rng))
    if "bph" in stated:
        others.append(describe_bph(findings, rng))
    others += describe_contents(findings, rng, stated)
    if "quality" in stated:
        others.append(describe_quality(findings, rng))
    rng.shuffle(others)
    blocks = sentences + others if rng.random() < 0.6 else others + sentences
    return pick(rng, (" ", "\n")).join(blocks), stated

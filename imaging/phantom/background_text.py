"""What a report says about the parts of the prostate without a lesion, and about incidental normal structures."""

from __future__ import annotations

import numpy as np

from .findings import Findings
from .grammar import say

NORMAL_PERIPHERAL_ZONE = (
    "[normal|homogeneous|preserved] [high |]T2 signal of the peripheral zone [on both sides|bilaterally|]",
    "the peripheral zone [is homogeneously hyperintense on T2|shows normal T2 signal] [bilaterally|on both sides|]",
    "peripheral zone: [normal signal on all sequences|no abnormality|unremarkable]",
)
OTHER_SIDE = (
    "the {side} [half of the gland|hemiprostate|lobe] is [unremarkable|without suspicious finding|normal]",
    "[no suspicious finding|no abnormality|nothing focal] [on|in] the {side} side",
    "{side} [peripheral and transition zones|side of the gland] without [focal lesion|suspicious finding]",
)
OTHER_ZONE = (
    "[no|no suspicious|no focal] lesion in the {zone}",
    "the {zone} [shows no suspicious lesion|contains no suspicious focus|is free of suspicious lesions]",
    "{zone} without suspicious [lesion|focus]",
)
NO_FURTHER = (
    "[no further|no other|no additional] suspicious [lesion|focus|area] [is seen|is identified|]",
    "[the |]remainder of the gland [is unremarkable|without focal restricted diffusion|shows no suspicious lesion]",
    "[elsewhere|otherwise] no focal [restricted diffusion|diffusion restriction]",
)
CAPSULE = (
    "[the |]prostatic [capsule|contour] is [smooth|intact|regular] [throughout|]",
    "[the |]neurovascular bundles are [symmetric|preserved|unremarkable] [on both sides|]",
    "[no bulge|no irregularity] of the capsule [on either side|]",
)
NORMAL_STRUCTURES = (
    "[levator ani|pelvic floor] and obturator muscles are unremarkable",
    "[no free fluid|no ascites] in the pelvis",
    "[external sphincter and membranous urethra|membranous urethra] [are |]normal",
    "[the |]central zone is [symmetric|of normal low signal|preserved] [at the base|]",
    "[the |]anterior fibromuscular stroma is [symmetric|thin and symmetric|unremarkable]",
    "[the |]ejaculatory ducts are unremarkable",
    "[hip joints|visualised bowel loops|inguinal regions] without [relevant |]abnormality",
)


def describe_background(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return true sentences on sides and zones without a lesion; which of them are said varies."""
    sentences = []
    zones = {lesion.zone for lesion in findings.lesions}
    sides = {lesion.side for lesion in findings.lesions}
    altered = findings.prostatitis or findings.haemorrhage
    if "PZ" not in zones and not altered and rng.random() < 0.5:
        sentences.append(say(NORMAL_PERIPHERAL_ZONE, rng))
    if not findings.lesions:
        return sentences
    # A spared side or zone is named, as radiologists do: a reader has to tell it from the affected one.
    if len(sides) == 1 and not altered and rng.random() < 0.25:
        sentences.append(say(OTHER_SIDE, rng, side="left" if "right" in sides else "right"))
    if len(zones) == 1 and rng.random() < 0.25:
        sentences.append(say(OTHER_ZONE, rng, zone="transition zone" if "PZ" in zones else "peripheral zone"))
    if rng.random() < 0.4:
        sentences.append(say(NO_FURTHER, rng))
    return sentences


def describe_normal_structures(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return up to three sentences on structures that every phantom shows as normal."""
    intact = findings.organ_confined or not findings.lesions
    sentences = [say(CAPSULE, rng)] if intact and rng.random() < 0.4 else []
    anterior = any(lesion.sector == "anterior" for lesion in findings.lesions)
    basal = any(lesion.level == "base" for lesion in findings.lesions)
    for index in rng.permutation(len(NORMAL_STRUCTURES))[: int(rng.integers(1, 3))]:
        template = NORMAL_STRUCTURES[index]
        # Stroma, central zone and ducts may be touched by a lesion next to them.
        if ("stroma" in template and anterior) or (("central" in template or "ducts" in template) and basal):
            continue
        sentences.append(say((template,), rng))
    return sentences

"""Radiology reports of phantom exams: free text that is true by construction.

A report is written from the structured findings alone. Every lesion is stated with side, level, sector, zone, size and
PI-RADS category; layout, order, wording, units and what is said about the rest vary from report to report.
"""

from __future__ import annotations

import numpy as np

from .background_text import describe_background, describe_normal_structures
from .findings import Findings
from .gland_text import (
    VESICLES,
    describe_bph,
    describe_mimics,
    describe_neighbours,
    describe_quality,
    describe_volume,
    summarise_benign,
)
from .grammar import pick, say
from .lesion_text import NO_LESION, NO_RESTRICTION, describe_lesions, pirads_text, summarise_lesions

HEADINGS = {
    "history": ("Clinical history", "Clinical information", "Indication", "History", "Reason for examination"),
    "technique": ("Technique", "Protocol", "Examination", "Procedure"),
    "comparison": ("Comparison", "Prior studies", "Previous imaging"),
    "findings": ("Findings", "Description", "Report", "Observations"),
    "impression": ("Impression", "Conclusion", "Summary", "Opinion", "Assessment"),
}

HISTORY = {
    "elevated PSA": (
        "{age}-year-old [man|male|patient] with [elevated|rising|raised] PSA ({psa} ng/mL)",
        "[elevated|raised|rising] PSA, {psa} ng/ml, [biopsy-naive|no prior biopsy]. Age {age}",
        "{age} y, PSA {psa} ng/mL[, biopsy naive|, no previous biopsy|]",
        "PSA {psa} ng/ml. [Clinically significant cancer?|Please assess the prostate.] Age {age} years",
    ),
    "prior negative biopsy": (
        "{age}-year-old [man|patient] with [previous|prior] negative biopsy and persistently elevated PSA ({psa} "
        "ng/mL)",
        "[prior|previous] [systematic |]biopsy negative, PSA {psa} ng/ml, age {age}",
        "persistent PSA elevation ({psa} ng/mL) after [a |]negative TRUS biopsy. {age} years old",
    ),
    "active surveillance": (
        "{age}-year-old [man|patient] on active surveillance for [low-risk|Gleason 3+3] disease, PSA {psa} ng/mL",
        "active surveillance, [ISUP 1|Gleason 6] on [prior |]biopsy. PSA {psa} ng/ml, age {age}",
        "follow-up under active surveillance. Age {age}, PSA {psa} ng/mL",
    ),
    "abnormal rectal examination": (
        "{age}-year-old [man|patient] with abnormal [digital rectal examination|DRE], PSA {psa} ng/mL",
        "[palpable induration|firm prostate] on DRE. PSA {psa} ng/ml. Age {age}",
        "suspicious DRE, PSA {psa} ng/mL, {age} years",
    ),
    "screening": (
        "{age}-year-old [man|patient], [opportunistic |]screening. PSA {psa} ng/mL",
        "[family history of prostate cancer|early detection], PSA {psa} ng/ml, age {age}",
        "screening, PSA {psa} ng/mL, age {age} years",
    ),
}

TECHNIQUE = (
    "[biparametric|bpMRI,] [MRI of the prostate at |]3 [T|Tesla] with T2-weighted [TSE |]and diffusion-weighted "
    "[images|imaging]",
    "multiplanar T2, DWI with [high b-value|b = 1600] and ADC map at 3T, no contrast [medium|given]",
    "axial T2w, DWI (b 50, 400, 800, [calculated |]1600) and ADC, [no endorectal coil|phased-array coil]",
    "3T [prostate MRI|MR prostate], biparametric protocol[ according to PI-RADS v2.1|, reported using PI-RADS v2.1|]",
    "T2 TSE and echo-planar diffusion [with ADC map|]. No [gadolinium|contrast]",
)

COMPARISON = {
    True: (
        "[prior|previous] MRI [reviewed|available]",
        "compared with [the |][previous|earlier] MRI",
        "MRI [of last year|2 years ago]",
    ),
    False: ("none", "no prior [MRI|imaging] available", "no [previous|earlier] studies"),
}
NO_TITLE_RATE = 0.75
TITLES = ("[MRI of the prostate|MR prostate|prostate MRI|bpMRI prostate][ without contrast|]",)

NORMAL_SUMMARY = (
    "[no suspicious lesion|no evidence of clinically significant cancer|no focal lesion suspicious for cancer], "
    "{pirads}",
    "{pirads}: clinically significant cancer is [unlikely|highly unlikely]",
    "{pirads}. No [lesion suspicious for|sign of|MR evidence of] clinically significant [prostate |]cancer",
    "[negative|unsuspicious] [prostate MRI|examination], {pirads}",
)

FOLLOW_UP = {
    True: (
        "[targeted|MRI-targeted|fusion] biopsy [is |][recommended|advised|suggested]",
        "recommend [targeted |]biopsy",
    ),
    False: (
        "[PSA follow-up|clinical follow-up] [suggested|recommended|]",
        "no [targeted |]biopsy needed on imaging grounds",
    ),
}

ORDERS = (
    ("history", "technique", "comparison", "findings", "impression"),
    ("history", "technique", "comparison", "findings", "impression"),
    ("history", "comparison", "technique", "findings", "impression"),
    ("technique", "history", "comparison", "findings", "impression"),
    ("history", "technique", "findings", "impression"),
    ("history", "findings", "impression"),
    ("impression", "history", "technique", "findings"),
    ("technique", "history", "findings", "impression"),
)


def write_report(findings: Findings, rng: np.random.Generator) -> str:
    """Write the report of one exam.

    Args:
        findings: What the exam shows.
        rng: The report's own generator; the same state gives the same text.

    Returns:
        Free text of about 80 to 220 words. Lesions are stated in the findings, the impression or both.
    """
    sections = {
        "history": _write_history(findings, rng),
        "technique": say(TECHNIQUE, rng),
        "comparison": say(COMPARISON[findings.prior_mri], rng),
    }
    detailed = not findings.lesions or rng.random() < 0.92
    restated = not detailed or rng.random() < 0.75
    sections["findings"] = _write_findings(findings, rng, detailed=detailed)
    sections["impression"] = _write_impression(findings, rng, restated=restated)
    if rng.random() < 0.85:
        place = pick(rng, ("technique", "findings", "findings"))
        parts = [sections[place], describe_quality(findings, rng)]
        sections[place] = " ".join(parts if place == "technique" or rng.random() < 0.3 else parts[::-1])
    return _lay_out(sections, rng)


def _write_history(findings: Findings, rng: np.random.Generator) -> str:
    return say(HISTORY[findings.history], rng, age=findings.age, psa=f"{findings.psa_ng_ml:.1f}")


def _write_findings(findings: Findings, rng: np.random.Generator, *, detailed: bool) -> str:
    """Write the findings section: gland, benign changes, lesions, neighbours, in varying order."""
    gland = [describe_volume(findings, rng)]
    if findings.bph != "none" or rng.random() < 0.6:
        gland.append(describe_bph(findings, rng))
    if rng.random() < 0.2:
        gland.reverse()
    focal = describe_lesions(findings, rng) if detailed else []
    if not findings.lesions:
        focal = [say(NO_LESION, rng)] if rng.random() < 0.6 else []
        if not focal or rng.random() < 0.7:
            focal.append(say(NO_RESTRICTION, rng))
    background = describe_background(findings, rng) if detailed else []
    background_last = bool(findings.lesions) or rng.random() < 0.5
    focal = focal + background if background_last else background + focal
    mimics = describe_mimics(findings, rng)
    middle = mimics + focal if rng.random() < 0.5 else focal + mimics
    neighbours = describe_neighbours(findings, rng) + describe_normal_structures(findings, rng)
    blocks = [middle, gland, neighbours] if rng.random() < 0.15 else [gland, middle, neighbours]
    return pick(rng, (" ", " ", "\n")).join(" ".join(block) for block in blocks if block)


def _write_impression(findings: Findings, rng: np.random.Generator, *, restated: bool) -> str:
    """Write the impression as numbered, dashed or running statements."""
    statements = []
    if findings.lesions and restated:
        statements = summarise_lesions(findings, rng)
    elif findings.lesions:
        count = ("one", "two", "three")[len(findings.lesions) - 1]
        noun = "lesion" if len(findings.lesions) == 1 else "lesions"
        highest = pirads_text(findings.lesions[0].pirads, rng)
        forms = (
            "{count} [suspicious |]{noun} as described, [overall |]{pirads}",
            "{pirads} [overall|], {count} {noun} [see above|]",
        )
        statements = [say(forms, rng, count=count, noun=noun, pirads=highest)]
    else:
        benign = findings.bph in ("moderate", "marked") or findings.prostatitis or findings.haemorrhage
        statements = [say(NORMAL_SUMMARY, rng, pirads=pirads_text(2 if benign else 1, rng))]
    if findings.seminal_vesicle_invasion and rng.random() < 0.8:
        statements.append(say(VESICLES, rng))
    statements += summarise_benign(findings, rng)
    if rng.random() < 0.35:
        statements.append(say(FOLLOW_UP[findings.positive], rng))
    style = rng.random()
    if style < 0.4:
        return "\n".join(f"{number}. {text}" for number, text in enumerate(statements, start=1))
    if style < 0.55:
        return "\n".join(f"- {text}" for text in statements)
    return " ".join(statements)


def _lay_out(sections: dict[str, str], rng: np.random.Generator) -> str:
    """Join the sections with or without headings."""
    order = pick_order(rng)
    style = rng.random()
    if style < 0.15:
        return pick(rng, ("\n", "\n\n")).join(sections[name] for name in order if name != "comparison")
    upper = style < 0.45
    gap = pick(rng, ("\n\n", "\n"))
    after = pick(rng, (": ", ":\n", ": "))
    blocks = []
    for name in order:
        heading = pick(rng, HEADINGS[name])
        is_list = sections[name].startswith(("1. ", "- "))
        blocks.append((heading.upper() if upper else heading) + (":\n" if is_list else after) + sections[name])
    title = "" if rng.random() < NO_TITLE_RATE else say(TITLES, rng) + gap
    return title + gap.join(blocks)


def pick_order(rng: np.random.Generator) -> tuple[str, ...]:
    """Return one order of sections; findings and impression are always among them."""
    return ORDERS[int(rng.integers(len(ORDERS)))]

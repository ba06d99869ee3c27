"""What a report says about lesions: where, how large, how they look, which PI-RADS category."""

from __future__ import annotations

import numpy as np

from .findings import Findings, Lesion
from .grammar import expand, pick, say

ZONE_NOUNS = {"PZ": ("peripheral zone", "peripheral zone", "PZ"), "TZ": ("transition zone", "transitional zone", "TZ")}
LEVEL_NOUNS = {
    "base": ("base", "base", "basal third"),
    "mid": ("mid-gland", "midgland", "mid gland", "middle third"),
    "apex": ("apex", "apex", "apical third"),
}
LEVEL_ADJECTIVES = {"base": ("basal", "base"), "mid": ("mid-gland", "midgland"), "apex": ("apical", "apex")}
SECTOR_MAP_LETTERS = {"posterolateral": "pl", "posteromedial": "pm", "anterior": "a", "posterior": "p"}

PLACES = (
    "{side} {level_adjective} {sector} {zone}",
    "{side} {sector} {zone} at the [level of the |]{level}",
    "{sector} {zone} of the {side} {level}",
    "{side} {level}, {sector} {zone}",
    "{sector} {zone}, {side} {level}",
    "{side}-sided {sector} {zone} [in|at] the {level}",
    "{side} {zone}, {sector}, {level_adjective} level",
    "{side} {level} {code}",
    "{code} sector on the {side} at the {level}",
)

PIRADS_WORDS = (
    "PI-RADS {n}",
    "PI-RADS {n}",
    "PIRADS {n}",
    "PI-RADS category {n}",
    "PIRADS category {n}",
    "PI-RADS score {n}",
    "PI-RADS v2.1 category {n}",
    "PI-RADS v2.1 score: {n}/5",
    "PI-RADS score of {n}/5",
    "PI-RADS assessment category {n}",
)

SIGNAL = {
    ("PZ", 3): (
        "[mild to moderate|moderate|mild] [focal |]diffusion restriction [and|with] [heterogeneous|indistinct] "
        "[T2 hypointensity|low T2 signal]",
        "[mildly|moderately] [reduced|low] ADC [without|and no] marked signal on [the |]high b-value [images|DWI]",
    ),
    ("TZ", 3): (
        "[heterogeneous|obscured] [T2 signal with obscured margins|low T2 signal and indistinct margins] and "
        "[mild|moderate] diffusion restriction",
        "[moderately|mildly] hypointense T2 signal [with|and] [mildly|moderately] reduced ADC",
    ),
    ("PZ", 4): (
        "[marked|pronounced|clear] [focal |]diffusion restriction[ and corresponding low T2 signal|]",
        "[markedly|clearly] hypointense signal on ADC and [markedly|clearly] hyperintense signal on high b-value "
        "[DWI|images]",
        "[focal |]restricted diffusion with [low|markedly reduced] ADC and [moderate |]T2 hypointensity",
    ),
    ("TZ", 4): (
        "[lenticular|homogeneous|non-circumscribed] [moderate |]T2 hypointensity and [marked |]restricted diffusion",
        "[homogeneously|moderately] [low|hypointense] T2 signal with [markedly|clearly] reduced ADC",
        "[an erased charcoal appearance|ill-defined lenticular shape] and [marked|pronounced] diffusion restriction",
    ),
}

NOUNS = ("lesion", "lesion", "focus", "focal lesion", "nodular lesion", "area")

LESION_SENTENCES = (
    "[there is|there is|we see|note is made of] a {size_adjective} {noun} in the {place} with {signal}{extent}. "
    "[Assessment: |Overall |]{pirads}.",
    "in the {place} there is a {noun} [measuring|of] {size} with {signal}{extent}, {pirads}.",
    "{noun} in the {place}, {size}, with {signal}{extent} ({pirads}).",
    "[a|a suspicious] {noun} is [seen|present|identified] in the {place}, "
    "[measuring|with a maximum diameter of] {size}, "
    "[showing|demonstrating|with] {signal}{extent}. [This is scored|This corresponds to|Category:] {pirads}.",
    "{place}: {size} {noun} [showing|with] {signal}{extent}. {pirads}.",
    "the {place} [contains|harbours|shows] a {size_adjective} {noun} ({pirads}) with {signal}{extent}.",
)

NUMBERED_SENTENCES = (
    "[lesion|target|index lesion] {number}: {place}. Size [:|] {size}. [Shows|Demonstrates] {signal}{extent}. "
    "{pirads}.",
    "[lesion|ROI|target] {number} - {place}, {size}, {signal}{extent}. {pirads}.",
    "#{number}: {size_adjective} {noun}, {place}, {pirads}, [with|showing] {signal}{extent}.",
)

EXTENSION = (
    ", with [clear |gross |signs of |]extraprostatic extension",
    " and [extraprostatic extension|extension beyond the capsule]",
    ", [extending|growing] [beyond|through] the [prostatic |]capsule",
)
ANTERIOR_EXTENSION = (
    ", [extending|growing] [through|beyond] the anterior fibromuscular stroma, with extraprostatic extension",
    ", with extraprostatic extension anteriorly",
)

CONFINED = (
    "[no|there is no|no evidence of|no sign of] extraprostatic extension",
    "the [prostatic |]capsule is [intact|preserved], without extraprostatic extension",
    "organ-confined; no extracapsular extension",
)

SHORT_LESIONS = (
    "{pirads} {noun} in the {place}, {size}",
    "{size_adjective} {noun}, {place}: {pirads}",
    "{noun} in the {place} ({size}), {pirads}",
    "{place}: {noun} of {size}, {pirads}",
)

SUMMARIES = {
    3: ("[equivocal|indeterminate] for [clinically significant |]cancer", "intermediate [suspicion|probability]"),
    4: ("[likely|probable] clinically significant cancer", "high [suspicion|probability]"),
    5: ("[very likely|highly suspicious for] clinically significant cancer", "very high [suspicion|probability]"),
}

NO_LESION = (
    "[there is |]no [focal|discrete] lesion [suspicious for|suggestive of] clinically significant [prostate "
    "|]cancer [is seen|]",
    "no [focal |]suspicious [lesion|abnormality] in the peripheral or transition zone",
    "no [evidence of|sign of] clinically significant [prostate cancer|carcinoma]",
    "the [examination|study] shows no suspicious focal lesion",
)
NO_RESTRICTION = (
    "no focal [restricted diffusion|diffusion restriction] [in|on either side of] the [gland|prostate]",
    "[there is |]no area of [restricted diffusion|low ADC] with matching high b-value signal",
    "diffusion-weighted images [and ADC map |]show no focal [abnormality|restriction]",
    "no focal area of low ADC and no focal high signal on high b-value [images|DWI]",
)


def size_text(diameter_mm: float, rng: np.random.Generator, *, adjective: bool = False, cm_rate: float = 0.3) -> str:
    """Return a diameter as text, exact in both units: "14 mm" or "1.4 cm", "14-mm" as an adjective."""
    joint = pick(rng, ("-", " ")) if adjective else " "
    if rng.random() < cm_rate:
        return f"{diameter_mm / 10:.1f}{joint}cm"
    return f"{diameter_mm:.0f}{joint}mm"


def pirads_text(category: int, rng: np.random.Generator) -> str:
    """Return a PI-RADS category in one of the usual wordings."""
    return expand(pick(rng, PIRADS_WORDS), rng, n=category)


def place_text(lesion: Lesion, rng: np.random.Generator) -> str:
    """Return where a lesion lies: side, level, sector and zone, all of them."""
    return expand(
        pick(rng, PLACES),
        rng,
        side=lesion.side,
        sector=lesion.sector,
        zone=pick(rng, ZONE_NOUNS[lesion.zone]),
        level=pick(rng, LEVEL_NOUNS[lesion.level]),
        level_adjective=pick(rng, LEVEL_ADJECTIVES[lesion.level]),
        code=lesion.zone + SECTOR_MAP_LETTERS[lesion.sector],
    )


def _lesion_slots(lesion: Lesion, rng: np.random.Generator, institution: int) -> dict[str, str]:
    cm_rate = 0.25 if institution == 1 else 0.45
    return {
        "place": place_text(lesion, rng),
        "size": size_text(lesion.diameter_mm, rng, cm_rate=cm_rate),
        "size_adjective": size_text(lesion.diameter_mm, rng, adjective=True, cm_rate=cm_rate),
        "noun": pick(rng, NOUNS),
        "pirads": pirads_text(lesion.pirads, rng),
    }


def describe_lesions(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return the sentences of the findings section about each lesion, the index lesion first."""
    numbered = rng.random() < (0.6 if len(findings.lesions) > 1 else 0.15)
    sentences = []
    for number, lesion in enumerate(findings.lesions, start=1):
        signal = expand(pick(rng, SIGNAL[lesion.zone, min(lesion.pirads, 4)]), rng)
        forms = ANTERIOR_EXTENSION if lesion.zone == "TZ" else EXTENSION
        extent = " " + expand(pick(rng, forms), rng) if lesion.extension else ""
        templates = NUMBERED_SENTENCES if numbered else LESION_SENTENCES
        slots = _lesion_slots(lesion, rng, findings.institution)
        sentences.append(say(templates, rng, number=number, signal=signal, extent=extent, **slots).replace(" ,", ","))
    if findings.organ_confined and rng.random() < 0.7:
        sentences.append(say(CONFINED, rng))
    return sentences


def summarise_lesions(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return the statements of the impression about each lesion, the index lesion first."""
    statements = []
    for lesion in findings.lesions:
        statement = expand(pick(rng, SHORT_LESIONS), rng, **_lesion_slots(lesion, rng, findings.institution))
        if lesion.extension:
            statement += pick(rng, (" with extraprostatic extension", ", extraprostatic extension"))
        if rng.random() < 0.4:
            statement += ", " + expand(pick(rng, SUMMARIES[lesion.pirads]), rng)
        statements.append(statement[:1].upper() + statement[1:] + ".")
    return statements

"""What a report says about everything but lesions: the gland, its benign changes, its neighbours, image quality."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from .findings import Findings
from .grammar import expand, say

VOLUME = (
    "[the prostate|the gland|prostate] measures {t} x {ap} x {cc} {unit} ([volume |estimated volume |]{volume} "
    "[mL|ml|cc])",
    "prostate [volume|size]: {volume} [mL|ml|cc] ({t} x {ap} x {cc} {unit})",
    "[gland|prostate] dimensions {t} x {ap} x {cc} {unit}, [corresponding to a volume of|calculated volume] "
    "{volume} [mL|ml|cc]",
    "[the prostate|the gland] has [a volume|an estimated volume] of {volume} [mL|ml|cc]",
    "prostate volume [is |of |]{volume} [mL|ml|cc] [by ellipsoid formula|]",
)

BPH = {
    "none": (
        "[no|no significant] benign prostatic hyperplasia",
        "the transition zone is [small|not enlarged] without [hyperplastic nodules|BPH nodules]",
        "no [relevant |]BPH changes",
    ),
    "mild": (
        "mild [benign prostatic hyperplasia|BPH] [of the transition zone|]",
        "[slight|mild] nodular hyperplasia of the [transition zone|central gland]",
        "mildly enlarged transition zone with [a few|few] [BPH nodules|encapsulated nodules]",
    ),
    "moderate": (
        "moderate [benign prostatic hyperplasia|BPH] [with|showing] [mixed stromal and glandular|encapsulated] nodules",
        "moderately enlarged [heterogeneous |]transition zone with [BPH|hyperplastic] nodules",
        "moderate nodular hyperplasia of the transition zone",
    ),
    "marked": (
        "[marked|severe|pronounced] [benign prostatic hyperplasia|BPH] [compressing the peripheral zone|with "
        "multiple nodules]",
        "markedly enlarged transition zone with [numerous|multiple] [BPH|hyperplastic|encapsulated] nodules",
        "[marked|extensive] nodular hyperplasia of the transition zone [with compression of the peripheral zone|]",
    ),
}

PROSTATITIS = {
    "one side": (
        "wedge-shaped [mild |]T2 hypointensity in the {side} peripheral zone without focal diffusion restriction, "
        "[in keeping with|suggestive of|compatible with] prostatitis",
        "[inflammatory|postinflammatory] [wedge-shaped |]changes [in|of] the {side} peripheral zone [without "
        "mass effect|]",
        "[band-like|wedge-shaped] low T2 signal in the {side} PZ, no marked diffusion restriction, "
        "[likely|probably] prostatitis",
    ),
    "diffuse": (
        "diffuse [mild |]T2 hypointensity of the peripheral zone on both sides without focal diffusion restriction, "
        "[in keeping with|suggestive of|compatible with] prostatitis",
        "diffuse [inflammatory|postinflammatory] changes of the peripheral zone bilaterally",
        "[bilateral|diffuse] streaky low T2 signal in the PZ, no marked diffusion restriction, [likely|probably] "
        "prostatitis",
    ),
}
PROSTATITIS_BRIEF = (
    "{where} [prostatitis|inflammatory change] in the peripheral zone",
    "[signs of |]{where} prostatitis",
)

HAEMORRHAGE = (
    "[post-biopsy|postbiopsy] [haemorrhage|hemorrhage] in the {where} peripheral zone",
    "[T1 hyperintense|T1-bright] [blood products|residual blood] in the {where} PZ after biopsy",
    "[residual |]biopsy-related [haemorrhage|hemorrhage], {where} peripheral zone",
)

SVI = (
    "[invasion|infiltration] of the seminal [vesicle|vesicles] [with loss of normal T2 signal|]",
    "low T2 signal and restricted diffusion in the seminal vesicle, [in keeping with|consistent with] seminal "
    "vesicle invasion",
    "seminal vesicle invasion [is present|is seen|]",
)
VESICLES = ("[with |]seminal vesicle [invasion|involvement]", "invasion of the seminal vesicles")
NO_SVI = (
    "[the |]seminal vesicles are [unremarkable|normal|symmetric]",
    "seminal vesicles: [normal|symmetric, normal signal]",
    "no seminal vesicle invasion",
)

RECTUM = {
    "gas": (
        "[the |]rectum [is |][distended|filled] with [gas|air]",
        "gas [in|within] the rectum",
        "[marked|some] rectal gas",
    ),
    "stool": (
        "stool [in|within] the rectum",
        "[the |]rectum [contains|is filled with] [stool|faeces]",
        "stool-filled rectum",
    ),
    "empty": (
        "[the |]rectum is [empty|collapsed]",
        "empty rectum",
        "[collapsed|empty] rectal ampulla",
    ),
}
BLADDER = {
    "full": (
        "[the |][urinary |]bladder is [full|well distended]",
        "full [urinary |]bladder [without wall lesion|]",
        "well-distended bladder",
    ),
    "partly filled": (
        "[the |][urinary |]bladder is [partly|partially|moderately] filled",
        "partly filled [urinary |]bladder",
        "bladder partially distended",
    ),
    "empty": (
        "[the |][urinary |]bladder is [empty|collapsed]",
        "[empty|nearly empty|collapsed] [urinary |]bladder",
    ),
}
NODES_AND_BONES = (
    "no [pelvic lymphadenopathy|enlarged pelvic lymph nodes|suspicious lymph nodes]",
    "no [pelvic lymphadenopathy|enlarged lymph nodes] and no [suspicious|destructive] bone [lesion|lesions]",
    "lymph nodes [are not enlarged|within normal limits]",
    "bones and lymph nodes [in the field of view |]unremarkable",
    "no [suspicious|aggressive] osseous lesion. No [adenopathy|lymphadenopathy]",
)

QUALITY = {
    "good": (
        "[image|diagnostic] quality [is |][good|adequate|sufficient]",
        "[good|diagnostic] image quality [without relevant artefacts|]",
        "[PI-QUAL score 4 of 5|technically adequate examination|no relevant artefacts]",
    ),
    "motion": (
        "[images are|the study is] [mildly |]degraded by [motion|patient movement]",
        "[limited quality due to|reduced quality because of] motion artefacts",
        "[some|moderate] motion artefact [on T2 images|], [otherwise diagnostic|still diagnostic]",
    ),
    "rectal gas artefact": (
        "[susceptibility artefacts|distortions] from rectal gas [limit|degrade] the diffusion images",
        "[diffusion|DWI] quality is [reduced|limited] by rectal gas artefact",
        "[geometric distortion|susceptibility] on DWI [caused by|due to] rectal gas",
    ),
}


def describe_volume(findings: Findings, rng: np.random.Generator) -> str:
    """Return a sentence with the gland volume in mL, mostly with its three dimensions in mm or cm."""
    in_cm = rng.random() < (0.3 if findings.institution == 1 else 0.5)
    sizes = [f"{size_mm / 10:.1f}" if in_cm else str(size_mm) for size_mm in findings.dimensions_mm]
    transverse, anteroposterior, craniocaudal = sizes
    return say(
        VOLUME,
        rng,
        t=transverse,
        ap=anteroposterior,
        cc=craniocaudal,
        unit="cm" if in_cm else "mm",
        volume=findings.volume_ml,
    )


def describe_bph(findings: Findings, rng: np.random.Generator) -> str:
    """Return a sentence on benign hyperplasia, its absence included."""
    return say(BPH[findings.bph], rng)


def describe_mimics(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return the sentences on prostatitis and haemorrhage that the findings call for."""
    sentences = []
    if findings.prostatitis == "diffuse":
        sentences.append(say(PROSTATITIS["diffuse"], rng))
    elif findings.prostatitis:
        sentences.append(say(PROSTATITIS["one side"], rng, side=findings.prostatitis))
    if findings.haemorrhage:
        sentences.append(say(HAEMORRHAGE, rng, where=_haemorrhage_side(findings.haemorrhage, rng)))
    return sentences


def summarise_benign(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return brief statements on benign changes for the impression, each one left out now and then."""
    statements = []
    if findings.bph != "none" and rng.random() < 0.6:
        statements.append(say(("{grade} BPH[, volume {volume} mL|]", "{grade} [BPH|prostatic hyperplasia]"), rng,
                              grade=findings.bph, volume=findings.volume_ml))  # fmt: skip
    if findings.prostatitis and rng.random() < 0.7:
        where = "diffuse" if findings.prostatitis == "diffuse" else f"{findings.prostatitis}-sided"
        statements.append(say(PROSTATITIS_BRIEF, rng, where=where))
    if findings.haemorrhage and rng.random() < 0.4:
        where = _haemorrhage_side(findings.haemorrhage, rng)
        statements.append(say(("{where} post-biopsy [haemorrhage|hemorrhage]",), rng, where=where))
    return statements


def describe_neighbours(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return sentences on seminal vesicles, rectum, bladder, lymph nodes and bones; some are left out at times."""
    sentences = []
    if findings.seminal_vesicle_invasion or rng.random() < 0.85:
        sentences.append(say(SVI if findings.seminal_vesicle_invasion else NO_SVI, rng))
    if rng.random() < 0.9:
        sentences.append(say(BLADDER[findings.bladder], rng))
    if rng.random() < 0.9:
        sentences.append(say(RECTUM[findings.rectum], rng))
    if rng.random() < 0.8:
        sentences.append(say(NODES_AND_BONES, rng))
    rng.shuffle(sentences)
    return sentences


def describe_contents(findings: Findings, rng: np.random.Generator, organs: Collection[str]) -> list[str]:
    """Return a sentence for each of `rectum` and `bladder` that is among the organs."""
    sentences = [say(RECTUM[findings.rectum], rng)] if "rectum" in organs else []
    return sentences + ([say(BLADDER[findings.bladder], rng)] if "bladder" in organs else [])


def describe_quality(findings: Findings, rng: np.random.Generator) -> str:
    """Return a sentence on image quality."""
    return say(QUALITY[findings.quality], rng)


def _haemorrhage_side(side: str, rng: np.random.Generator) -> str:
    return expand("[bilateral|right and left]", rng) if side == "both" else side

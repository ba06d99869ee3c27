"""Findings keep the cohort's rates, and reports say what the findings hold: the vocabulary here is written out anew."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ccella.imaging.errors import InputError
from ccella.imaging.phantom.findings import Findings, Lesion, draw_findings
from ccella.imaging.phantom.grammar import expand
from ccella.imaging.phantom.report import write_report

ZONE = {"PZ": r"peripheral zone|\bPZ(?:pl|pm|a)?\b", "TZ": r"transition(?:al)? zone|\bTZ[ap]?\b"}
LEVEL = {"base": r"\bbase\b|\bbasal\b", "mid": r"\bmid[- ]?gland\b|\bmiddle third\b", "apex": r"\bapex\b|\bapical\b"}
SECTOR = {
    "posterolateral": r"posterolateral|PZpl",
    "posteromedial": r"posteromedial|PZpm",
    "anterior": r"\banterior\b|[PT]Za\b",
    "posterior": r"\bposterior\b|TZp\b",
}
NEGATION = re.compile(r"\b(no|not|without|nothing|negative|unsuspicious|unlikely|none|free of)\b", re.IGNORECASE)
ALARM = re.compile(r"lesion|suspicious|restrict|focal|focus|extraprostatic|extracapsular|invasion", re.IGNORECASE)
CATEGORY = re.compile(r"PI-?RADS(?: v2\.1)?(?: assessment)?(?: category| score)?(?: of|:)? (\d)")


def cohort(count: int, prevalence: float | None = None) -> list[tuple[Findings, str]]:
    pairs = []
    for index in range(count):
        rng = np.random.default_rng([5, index])
        findings = draw_findings(rng, 1 + index % 2, prevalence)
        pairs.append((findings, write_report(findings, rng)))
    return pairs


@pytest.fixture(scope="module")
def mixed() -> list[tuple[Findings, str]]:
    return cohort(2000, 0.5)


@pytest.fixture(scope="module")
def drawn() -> list[Findings]:
    return [draw_findings(np.random.default_rng([11, index])) for index in range(5000)]


def statements(report: str) -> list[str]:
    """Split at line ends and at full stops before a space and a capital or digit, not inside numbers."""
    return [
        part for line in report.split("\n") for part in re.split(r"(?<!\d)\.\s+|(?<=\d\d)\.\s+(?=[A-Z])", line) if part
    ]


def size_pattern(diameter_mm: float) -> str:
    return rf"(?<![\d.])(?:{diameter_mm:.0f}[ -]mm|{re.escape(f'{diameter_mm / 10:.1f}')}[ -]cm)\b"


def states(text: str, lesion: Lesion) -> bool:
    patterns = (rf"\b{lesion.side}\b", ZONE[lesion.zone], LEVEL[lesion.level], SECTOR[lesion.sector])
    facts = all(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)
    return facts and re.search(size_pattern(lesion.diameter_mm), text) is not None


def test_every_lesion_is_stated_whole_in_one_place(mixed):
    for findings, report in mixed:
        # From one measurement to the next "lesion" the text speaks of one lesion: look in windows around its size.
        for lesion in findings.lesions:
            spots = [match.start() for match in re.finditer(size_pattern(lesion.diameter_mm), report)]
            windows = [report[max(0, spot - 110) : spot + 110] for spot in spots]
            assert any(states(window, lesion) for window in windows), (lesion, report)


def test_a_single_lesion_statement_never_names_another_place(mixed):
    wrong_side = {"left": "right", "right": "left"}
    checked = 0
    for findings, report in mixed:
        if len(findings.lesions) != 1:
            continue
        lesion = findings.lesions[0]
        for line in report.split("\n"):
            for match in re.finditer(rf"(?:[^.]|\.(?=\d))*{size_pattern(lesion.diameter_mm)}", line):
                checked += 1
                assert not re.search(rf"\b{wrong_side[lesion.side]}\b", match[0])
    assert checked > 500


def test_stated_categories_are_those_of_the_lesions(mixed):
    for findings, report in mixed:
        stated = {int(digit) for digit in CATEGORY.findall(report)}
        if findings.positive:
            assert findings.lesions[0].pirads in stated
            assert stated <= {lesion.pirads for lesion in findings.lesions}
        else:
            assert stated <= {1, 2} and stated


def test_negative_reports_hold_no_positive_statement(mixed):
    negatives = [report for findings, report in mixed if not findings.positive]
    assert len(negatives) > 800
    for report in negatives:
        for statement in statements(report):
            history = re.search(r"DRE|rectal examination", statement)
            if ALARM.search(statement) and not history:
                assert NEGATION.search(statement), statement


def test_benign_facts_agree_with_the_record(mixed):
    said = Counter()
    for findings, report in mixed:
        low = report.lower()
        assert f"{findings.volume_ml} ml" in low or f"{findings.volume_ml} cc" in low
        assert ("prostatitis" in low or "inflammatory" in low) == (findings.prostatitis is not None)
        if findings.prostatitis in ("left", "right"):
            assert findings.prostatitis in low
        # Haemorrhage is spelt in both ways or called blood.
        bleeding = re.search(r"ha?emorrhage|blood", low) is not None
        assert bleeding == (findings.haemorrhage is not None)
        if findings.seminal_vesicle_invasion:
            assert re.search(r"(invasion|infiltration) of the seminal|seminal vesicle invasion", low)
            assert "no seminal vesicle" not in low
        extension = any(lesion.extension for lesion in findings.lesions)
        positive = [s for s in statements(report) if "extraprostatic" in s.lower() and not NEGATION.search(s)]
        assert extension or not positive
        for grade in ("marked", "moderate"):
            heading = re.search(rf"{grade} (benign prostatic|bph|prostatic hyper|nodular hyper)", low)
            assert not heading or findings.bph == grade
        said["rectum"] += bool(re.search(r"rectum|rectal (gas|ampulla)", low))
        said["bladder"] += "bladder" in low
    assert min(said.values()) > 0.85 * len(mixed)


def test_bladder_and_rectum_words_are_true(mixed):
    for findings, report in mixed:
        low = report.lower()
        if "stool" in low or "faeces" in low:
            assert findings.rectum == "stool"
        if re.search(r"(gas|air)\b.*rectum|rectal gas|with (gas|air)", low):
            assert findings.rectum == "gas"
        if re.search(r"(partly|partially|moderately) (filled|distended)", low):
            assert findings.bladder == "partly filled"
        if re.search(r"full( urinary)? bladder|bladder is (full|well)|well-distended", low):
            assert findings.bladder == "full"


def test_reports_vary(mixed):
    texts = [report for _, report in mixed]
    assert len(set(texts)) >= 0.95 * len(texts)
    words = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    assert len(words) > 350
    lengths = np.array([len(text.split()) for text in texts])
    assert 80 <= np.median(lengths) <= 160
    assert np.mean((lengths >= 65) & (lengths <= 230)) > 0.97
    # No opening of five words may dominate: the layout is not a fixed template.
    openings = Counter(" ".join(text.split()[:5]) for text in texts)
    assert openings.most_common(1)[0][1] < 0.1 * len(texts)


def test_same_seed_same_findings_and_text():
    assert cohort(20) == cohort(20)
    other = draw_findings(np.random.default_rng([6, 0]))
    assert other != cohort(1)[0][0]


def test_gland_volumes_follow_the_cohort(drawn):
    volumes = np.array([findings.volume_ml for findings in drawn])
    assert volumes.min() >= 20 and volumes.max() <= 150
    np.testing.assert_allclose(np.percentile(volumes, [25, 50, 75]), [40, 57, 80], atol=4)
    for findings in drawn[:200]:
        assert findings.volume_ml == round(np.pi / 6 * np.prod(findings.dimensions_mm) / 1000)
    grades = [
        np.median([f.volume_ml for f in drawn if f.bph == grade]) for grade in ("none", "mild", "moderate", "marked")
    ]
    assert grades == sorted(grades)


def test_lesion_rates(drawn):
    assert abs(np.mean([findings.positive for findings in drawn]) - 0.28) < 0.02
    lesions = [lesion for findings in drawn for lesion in findings.lesions]
    for pirads, rate in ((3, 0.23), (4, 0.40), (5, 0.37)):
        assert abs(np.mean([lesion.pirads == pirads for lesion in lesions]) - rate) < 0.04
    assert abs(np.mean([lesion.zone == "PZ" for lesion in lesions]) - 0.7) < 0.04
    assert abs(np.mean([lesion.side == "left" for lesion in lesions]) - 0.5) < 0.04
    for level in ("base", "mid", "apex"):
        assert abs(np.mean([lesion.level == level for lesion in lesions]) - 1 / 3) < 0.04
    assert min(lesion.diameter_mm for lesion in lesions) >= 7
    assert all(lesion.diameter_mm <= 14 for lesion in lesions if lesion.pirads == 3)
    assert {len(findings.lesions) for findings in drawn} == {0, 1, 2, 3}


def test_prevalence_overrides():
    rng = np.random.default_rng(3)
    assert not any(draw_findings(rng, prevalence=0.0).positive for _ in range(50))
    assert all(draw_findings(rng, prevalence=1.0).positive for _ in range(50))
    with pytest.raises(InputError, match=r"prevalence is 1\.5"):
        draw_findings(rng, prevalence=1.5)


def test_json_round_trip_is_exact(drawn):
    for findings in drawn[:500]:
        back = Findings.from_dict(json.loads(json.dumps(findings.to_dict())))
        assert back == findings
        assert isinstance(back.dimensions_mm, tuple)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zone": "CZ"}, "zone is 'CZ'"),
        ({"sector": "posterior"}, "sector is 'posterior'"),
        ({"diameter_mm": 14.5}, r"diameter_mm is 14\.5"),
        ({"diameter_mm": float("nan")}, "diameter_mm is nan"),
        ({"diameter_mm": 15.0}, "PI-RADS 4 lesion measures 15 mm"),
        ({"pirads": 5}, "PI-RADS 5 lesion measures 12 mm"),
        ({"extension": True}, "PI-RADS 4 lesion has an extension"),
    ],
)
def test_lesions_are_validated(change, message):
    lesion = Lesion("PZ", "left", "mid", "anterior", 12.0, 4)
    with pytest.raises(InputError, match=message):
        replace(lesion, **change)


def test_findings_are_validated(drawn):
    negative = next(f for f in drawn if not f.positive and f.rectum == "empty")
    small, large = Lesion("PZ", "left", "mid", "anterior", 9.0, 4), Lesion("TZ", "left", "mid", "anterior", 19.0, 5)
    assert replace(negative, lesions=(large, small)).positive
    with pytest.raises(InputError, match="out of order"):
        replace(negative, lesions=(small, large))
    with pytest.raises(InputError, match="share one zone"):
        replace(negative, lesions=(small, small))
    with pytest.raises(InputError, match="seminal_vesicle_invasion"):
        replace(negative, seminal_vesicle_invasion=True)
    with pytest.raises(InputError, match="rectal gas artefact"):
        replace(negative, quality="rectal gas artefact")
    with pytest.raises(InputError, match="no field 'colour'"):
        Findings.from_dict({**negative.to_dict(), "colour": "blue"})


def test_grammar_expands_nested_choices_and_articles():
    rng = np.random.default_rng(0)
    seen = {expand("a [b[1|2]|c|] {x}", rng, x="d") for _ in range(200)}
    assert seen == {"a b1 d", "a b2 d", "a c d", "a d"}
    assert expand("a {size} lesion", rng, size="18-mm") == "an 18-mm lesion"
    assert expand("a {size} lesion", rng, size="1.1 cm") == "a 1.1 cm lesion"
    with pytest.raises(KeyError):
        expand("{missing}", rng)

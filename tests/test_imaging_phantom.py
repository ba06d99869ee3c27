"""The phantom's images show what its findings say."""

from functools import cache

import numpy as np
import pytest

from ccella.imaging.errors import InputError
from ccella.imaging.phantom.anatomy import GLAND_LABELS, LABELS, draw_body, make_tissue_maps
from ccella.imaging.phantom.exam import PhantomExam, exam_findings, make_exam
from ccella.imaging.phantom.fields import centred_grid, draw_field, ramp
from ccella.imaging.phantom.findings import Findings, Lesion
from ccella.imaging.phantom.parameters import Tissue, load_parameters
from ccella.imaging.phantom.signal import diffusion_signal, fit_adc, rician, spin_echo

SMALL = {"shape": (32, 32, 16), "spacing_mm": (3.0, 3.0, 6.0)}


@cache
def positive_exams() -> tuple[PhantomExam, ...]:
    return tuple(make_exam(5, index, prevalence=1.0) for index in range(60))


def millimetres(exam: PhantomExam, mask: np.ndarray) -> np.ndarray:
    """Voxel positions [n, 3] in RAS mm."""
    return np.argwhere(mask) @ exam.t2w.affine[:3, :3].T + exam.t2w.affine[:3, 3]


def gland_mask(exam: PhantomExam) -> np.ndarray:
    return np.isin(exam.anatomy.data, GLAND_LABELS)


def lesion_masks() -> list[tuple[PhantomExam, Lesion, np.ndarray]]:
    return [
        (exam, lesion, exam.lesions.data == number)
        for exam in positive_exams()
        for number, lesion in enumerate(exam.findings.lesions, 1)
    ]


def feret_mm(exam: PhantomExam, mask: np.ndarray) -> float:
    """Greatest axial extent of a mask in mm, over its slices."""
    best = 0.0
    angles = np.linspace(0, np.pi, 36, endpoint=False)
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        shadow = np.argwhere(mask[:, :, z]) * exam.t2w.spacing_mm[:2] @ np.stack([np.cos(angles), np.sin(angles)])
        best = max(best, float(np.ptp(shadow, axis=0).max()) + exam.t2w.spacing_mm[0])
    return best


def test_exam_is_the_same_twice_and_differs_from_its_neighbours() -> None:
    one, two, other = (make_exam(0, index, **SMALL) for index in (17, 17, 18))
    for name in ("t2w", "hbv", "adc", "anatomy", "lesions"):
        np.testing.assert_array_equal(getattr(one, name).data, getattr(two, name).data)
    assert one.report == two.report and one.findings == two.findings
    assert not np.array_equal(one.t2w.data, other.t2w.data)
    assert not np.array_equal(one.t2w.data, make_exam(1, 17, **SMALL).t2w.data)


def test_id_names_institution_index_and_seed() -> None:
    exam = make_exam(3, 7, institution=2, **SMALL)
    assert exam.id == "phantom2s3-00007_1"
    assert exam.patient_id == "phantom2s3-00007"


def test_findings_are_those_of_the_exam() -> None:
    assert exam_findings(0, 4, 1, 0.5) == make_exam(0, 4, prevalence=0.5, **SMALL).findings
    assert exam_findings(0, 4, 1, 1.0, True) == make_exam(0, 4, prevalence=1.0, even_places=True, **SMALL).findings


@pytest.mark.parametrize(
    ("even", "shares"),
    [
        (False, {"posterolateral": 0.35, "posteromedial": 0.21, "PZ anterior": 0.14}),
        (True, {"posterolateral": 0.2, "posteromedial": 0.2, "PZ anterior": 0.2}),
    ],
)
def test_lesions_lie_where_cancer_is_found_or_evenly(even, shares):
    """The first lesion drawn of 2000 exams; in the peripheral zone alone, where an extension moves no lesion."""
    exams = [exam_findings(0, index, 1, 1.0, even) for index in range(2000)]
    single = [exam.lesions[0] for exam in exams if len(exam.lesions) == 1]
    names = [f"PZ {each.sector}" if each.sector == "anterior" else each.sector for each in single if each.zone == "PZ"]
    for name, share in shares.items():
        # Three standard errors of a share among some 1400 lesions.
        assert names.count(name) / len(single) == pytest.approx(share, abs=0.04)


def test_three_volumes_share_one_grid_and_hold_whole_numbers() -> None:
    exam = make_exam(0, 1, institution=2)
    acquisition = load_parameters().institutions[2]
    for volume in (exam.t2w, exam.hbv, exam.adc, exam.anatomy, exam.lesions):
        assert volume.shape == acquisition.shape
        assert volume.spacing_mm == pytest.approx(acquisition.spacing_mm)
        assert volume.orientation == "RAS"
        np.testing.assert_array_equal(volume.affine, exam.t2w.affine)
    for volume in (exam.t2w, exam.hbv, exam.adc):
        np.testing.assert_array_equal(volume.data, volume.data.astype(np.int16))
        assert volume.data.min() >= 0
    assert exam.adc.data.max() <= 3500


@pytest.mark.parametrize("grid", [((48, 48, 24), (2.0, 2.0, 4.0)), ((96, 80, 32), (1.0, 1.2, 3.0))])
def test_anatomy_does_not_depend_on_the_grid(grid: tuple) -> None:
    default = make_exam(0, 3, prevalence=1.0)
    exam = make_exam(0, 3, prevalence=1.0, shape=grid[0], spacing_mm=grid[1])
    assert exam.findings == default.findings
    for mask_of in (gland_mask, lambda exam: exam.lesions.data == 1):
        one, two = (millimetres(e, mask_of(e)) for e in (default, exam))
        np.testing.assert_allclose(one.mean(axis=0), two.mean(axis=0), atol=1.0)


def test_gland_volume_is_the_reported_one() -> None:
    for exam in positive_exams():
        volume_ml = gland_mask(exam).sum() * np.prod(exam.t2w.spacing_mm) / 1000
        assert volume_ml == pytest.approx(exam.findings.volume_ml, rel=0.15)


def test_zones_lie_where_they_belong() -> None:
    for exam in positive_exams()[:20]:
        labels = exam.anatomy.data
        centre = {
            name: millimetres(exam, labels == LABELS[name]).mean(axis=0)
            for name in ("PZ", "TZ", "AFS", "rectum", "bladder")
        }
        assert centre["PZ"][1] < centre["TZ"][1] < centre["AFS"][1]
        assert centre["rectum"][1] < centre["PZ"][1]
        assert centre["bladder"][2] > centre["TZ"][2]


def test_transition_zone_grows_with_the_gland() -> None:
    volumes = [exam.findings.volume_ml for exam in positive_exams()]
    shares = [(exam.anatomy.data == LABELS["TZ"]).sum() / gland_mask(exam).sum() for exam in positive_exams()]
    assert np.corrcoef(volumes, shares)[0, 1] > 0.6


def test_lesions_are_on_the_side_and_in_the_zone_that_the_findings_name() -> None:
    for exam, lesion, mask in lesion_masks():
        sign = 1 if lesion.side == "right" else -1
        middle = millimetres(exam, gland_mask(exam)).mean(axis=0)
        centroid = millimetres(exam, mask).mean(axis=0)
        assert sign * (centroid[0] - middle[0]) >= 4.0, (exam.id, lesion)
        assert (exam.anatomy.data[mask] == LABELS[lesion.zone]).mean() > 0.95, (exam.id, lesion)


def test_lesions_are_at_the_level_that_the_findings_name() -> None:
    heights: dict[str, list[float]] = {"apex": [], "mid": [], "base": []}
    for exam, lesion, mask in lesion_masks():
        gland = millimetres(exam, gland_mask(exam))[:, 2]
        share = (millimetres(exam, mask)[:, 2].mean() - gland.min()) / np.ptp(gland)
        heights[lesion.level].append(share)
    assert max(heights["apex"]) < 0.40
    assert min(heights["mid"]) > 0.28 and max(heights["mid"]) < 0.68
    assert min(heights["base"]) > 0.60


def test_lesions_have_the_reported_diameter() -> None:
    excess = [feret_mm(exam, mask) - lesion.diameter_mm for exam, lesion, mask in lesion_masks()]
    assert abs(np.median(excess)) < 1.5
    assert np.max(np.abs(excess)) < 5.0


def test_lesions_restrict_diffusion_and_are_dark_on_t2() -> None:
    by_category: dict[int, list[float]] = {3: [], 4: [], 5: []}
    for exam, lesion, mask in lesion_masks():
        rest = gland_mask(exam) & (exam.lesions.data == 0)
        if exam.findings.quality == "good":
            core = np.percentile(exam.adc.data[mask], 30)
            assert 600 <= core <= 1200, (exam.id, lesion)
            by_category[lesion.pirads].append(core)
        assert exam.adc.data[mask].mean() < exam.adc.data[rest].mean() - 200, (exam.id, lesion)
        assert exam.hbv.data[mask].mean() > 1.3 * exam.hbv.data[rest].mean(), (exam.id, lesion)
        host = rest & (exam.anatomy.data == LABELS[lesion.zone])
        assert exam.t2w.data[mask].mean() < exam.t2w.data[host].mean(), (exam.id, lesion)
    assert np.mean(by_category[3]) > np.mean(by_category[4]) > np.mean(by_category[5])


def test_without_lesion_no_lesion_mask_and_negative() -> None:
    exam = make_exam(0, 2, prevalence=0.0, **SMALL)
    assert not exam.lesions.data.any()
    assert not exam.findings.positive


def with_findings(findings: Findings, **changes: object) -> Findings:
    return Findings.from_dict({**findings.to_dict(), **changes})


def test_prostatitis_and_haemorrhage_stay_on_their_side_of_the_peripheral_zone() -> None:
    grid = centred_grid((48, 48, 24), (2.0, 2.0, 4.0))
    names = list(load_parameters().tissues)
    quiet = with_findings(exam_findings(0, 0, 1, 0.0), prostatitis=None, haemorrhage=None)
    for tissue, changed in (("pz_inflamed", {"prostatitis": "left"}), ("haemorrhage", {"haemorrhage": "left"})):
        before, after = (
            make_tissue_maps(draw_body(np.random.default_rng(1), findings), grid).fractions[names.index(tissue)]
            for findings in (quiet, with_findings(quiet, **changed))
        )
        gain = after - before
        assert gain[:20].sum() > 10 * abs(gain[28:].sum()) and gain[:20].sum() > 20


def test_vesicle_invasion_darkens_one_side_only() -> None:
    base = exam_findings(0, 0, 1, 0.0)
    lesion = Lesion("PZ", "right", "base", "posterolateral", 20.0, 5, True).to_dict()
    findings = [with_findings(base, lesions=[lesion], seminal_vesicle_invasion=invaded) for invaded in (False, True)]
    grid = centred_grid((64, 64, 32), (1.5, 1.5, 3.0))
    clear, invaded = (make_tissue_maps(draw_body(np.random.default_rng(2), f), grid) for f in findings)
    fluid = list(load_parameters().tissues).index("sv_fluid")
    loss = clear.fractions[fluid] - invaded.fractions[fluid]
    assert loss[34:].sum() > 0.5 * clear.fractions[fluid][34:].sum()
    assert abs(loss[:28].sum()) < 0.05 * clear.fractions[fluid][:28].sum()


def test_tissue_fractions_sum_to_one() -> None:
    body = draw_body(np.random.default_rng(3), exam_findings(0, 5, 1, 1.0))
    maps = make_tissue_maps(body, centred_grid((40, 40, 20), (2.0, 2.0, 4.0)))
    assert maps.fractions.min() >= -1e-6
    np.testing.assert_allclose(maps.fractions.sum(axis=0), 1.0, atol=1e-4)


def test_institutions_differ_as_published() -> None:
    """CCELLA++ table 2: T2 -20 % mean and -30 % at 99.5 %, high b -10 %, ADC +41..48 % mean and +9 % at 99.5 %."""
    figures = []
    for institution in (1, 2):
        rows = []
        for index in range(40):
            exam = make_exam(0, index, institution=institution)
            rows.append(
                [f(v.data) for v in (exam.t2w, exam.hbv, exam.adc) for f in (np.mean, lambda a: np.percentile(a, 99.5))]
            )
        figures.append(np.mean(rows, axis=0))
    ratio = figures[1] / figures[0] - 1
    assert ratio[0] == pytest.approx(-0.20, abs=0.04)
    assert ratio[1] == pytest.approx(-0.30, abs=0.04)
    assert ratio[2] == pytest.approx(-0.10, abs=0.05)
    assert ratio[4] == pytest.approx(0.445, abs=0.06)
    assert ratio[5] == pytest.approx(0.09, abs=0.03)


def test_spin_echo_follows_its_equation() -> None:
    # Computed by hand: 0.8 (1 - e^-2) e^-0.5 = 0.8 x 0.864665 x 0.606531.
    assert spin_echo([Tissue(0.8, 1000.0, 100.0, 0.0)], 2000.0, 50.0)[0] == pytest.approx(0.419558, rel=1e-5)


def test_adc_fit_inverts_the_diffusion_signal() -> None:
    parameters = load_parameters()
    acquisition = parameters.institutions[1]
    tissues = list(parameters.tissues.values())
    signal = diffusion_signal(tissues, acquisition, acquisition.adc_b_s_mm2)
    bright = signal[0] > acquisition.adc_signal_floor[1]
    fitted = fit_adc(signal[:, :, None, None], acquisition)[:, 0, 0]
    expected = np.array([tissue.adc_um2_s for tissue in tissues])
    np.testing.assert_allclose(fitted[bright], expected[bright], rtol=1e-3)
    assert fitted[list(parameters.tissues).index("gas")] == 0
    assert bright.sum() > 12


def test_rician_noise_has_its_floor() -> None:
    noise = rician(np.random.default_rng(0), np.zeros((60, 60, 60), dtype=np.float32), 2.0)
    assert noise.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)


def test_smooth_field_has_unit_variance_and_repeats() -> None:
    field = draw_field(np.random.default_rng(0), 4.0, 32)
    grid = centred_grid((64, 64, 64), (2.0, 2.0, 2.0))
    assert field.sample(grid).std() == pytest.approx(1.0, abs=0.05)
    shifted = centred_grid((8, 8, 8), (16.0, 128.0, 128.0))
    values = field.sample(shifted)
    np.testing.assert_allclose(values[:, 1:], values[:, :1].repeat(7, axis=1), atol=1e-4)


def test_ramp_is_half_on_the_surface() -> None:
    np.testing.assert_allclose(
        ramp(np.array([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=np.float32), 1.0), [0, 0.25, 0.5, 0.75, 1]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1, "index": 0}, "-1"),
        ({"seed": 0, "index": 0, "institution": 3}, "3"),
        ({"seed": 0, "index": 0, "shape": (64, 64)}, "64, 64"),
        ({"seed": 0, "index": 0, "spacing_mm": (1.0, 0.0, 3.0)}, "0.0"),
        ({"seed": 0, "index": 0, "prevalence": 1.5}, "1.5"),
    ],
)
def test_bad_requests_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_exam(**arguments)
    assert caught.value.remedy

"""Intervals over trainings and test patients, and how a study's points and differences get them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccella.metrics.classification import classification_figures
from ccella.pipeline.prediction_table import Prediction, write_table
from ccella.study.definition import read_study
from ccella.study.plan import Run, plan_runs
from ccella.study.results import Results, collect_results
from ccella.study.tables import difference_rows, p_text, summary_rows
from ccella.study.uncertainty import crossed_interval, estimate

TINY = Path(__file__).parent / "data" / "study-tiny.toml"
# Areas of five readers with two tests (Van Dyke 1993), with the jackknife's covariances of two readers' areas: of one
# test (Cov2) and of one reader's test with the other's other test (Cov3). Published with the package MRMCaov.
FIRST = np.array([0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907])
SECOND = np.array([0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517])
COV2, COV3 = 0.0003440748, 0.0002390284


def test_the_published_example_of_five_readers() -> None:
    low, high, p_value = crossed_interval((FIRST - SECOND).tolist(), 2 * (COV2 - COV3))
    assert (low, high) == pytest.approx((-0.0879594986, 0.0003588544), abs=2e-7)
    assert p_value == pytest.approx(0.05166569, abs=1e-6)


def test_three_trials_cover_what_they_should_and_fewer_sources_do_not() -> None:
    """The truth is inside 95 % of the intervals; of intervals that know the patients alone it is inside few."""
    rng = np.random.default_rng(0)
    # Variance over trainings and over patients.
    for training, patients in ((1.0, 0.0), (0.0, 1.0), (0.8, 0.2)):
        inside = alone = 0
        for _ in range(2000):
            trials = rng.normal(0.0, training**0.5, 3) + rng.normal(0.0, patients**0.5)
            low, high, p_value = crossed_interval(trials.tolist(), patients)
            assert (low <= 0 <= high) == (p_value >= 0.05)
            inside += low <= 0 <= high
            alone += abs(trials.mean()) <= 1.96 * patients**0.5
        assert 0.91 <= inside / 2000 <= 0.965
        if training:
            assert alone / 2000 < 0.9


def test_ends_of_intervals() -> None:
    draws = np.random.default_rng(1).normal(0.95, 0.02, (3, 500))
    found = estimate([0.9, 0.95, 1.0], draws, (0.9, 0.97), limits=(0.0, 1.0), smallest=50)
    assert found.interval is not None and found.interval[1] == 1.0 and found.interval[0] < 0.9
    assert found.sd == pytest.approx(0.05) and found.value == pytest.approx(0.95)
    single = estimate([0.9], draws[:1], (0.8, 0.97), limits=(0.0, 1.0), smallest=50)
    assert single.interval is single.p_value is single.sd is None and single.patients == (0.8, 0.97)
    # Too few patients for an interval over them are too few for one over trainings as well.
    for patients, smallest in ((None, 50), ((0.8, 1.0), 1)):
        few = estimate([0.9, 0.95, 1.0], draws, patients, limits=(0.0, 1.0), smallest=smallest)
        assert few.interval is few.p_value is None and few.sd == pytest.approx(0.05)
    assert crossed_interval([0.0, 0.0], -1.0) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least two"):
        crossed_interval([0.5], 0.1)


def test_p_values_for_people() -> None:
    assert [p_text(value) for value in (None, 1.0, 0.04567, 0.001, 0.00099)] == [
        "",
        "1.000",
        "0.046",
        "0.001",
        "<0.001",
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three trials of every run but one, whose third is not done yet, with synthetic trials that differ a lot."""
    out = tmp_path_factory.mktemp("study")
    study = replace(read_study(TINY), trials=3, bootstrap=200)
    labels = np.arange(60) % 2
    strength = {"real": (2.0, 2.1, 1.9), "synthetic": (3.0, 0.1, 1.0), "none": (1.0, 1.0, 1.1)}
    for number, run in enumerate(plan_runs(study)):
        if run == Run("t2w", "none", 0.5, 2):
            continue
        noise = np.random.default_rng(100 + run.trial).normal(size=60) + np.random.default_rng(number).normal(size=60)
        values = 1 / (1 + np.exp(-strength[run.pretraining][run.trial] * (labels - 0.5) - noise))
        rows = [Prediction(f"e{i:02}", f"p{i:02}", float(values[i]), int(labels[i])) for i in range(60)]
        write_table(run.folder(out) / "predictions.csv", rows, {})
    return collect_results(study, out)


def test_differences_are_paired_by_trial(results: Results) -> None:
    areas = {run: float(found["auc"] or 0) for run, found in results.figures.items()}
    for each in results.pretraining + results.sequences:
        pairs = [
            (areas[run], areas[Run(*each.subtrahend, run.trial)])
            for run in areas
            if (run.sequences, run.pretraining, run.fraction) == each.minuend
            and Run(*each.subtrahend, run.trial) in areas
        ]
        if each.figure != "auc":
            continue
        expected = np.array([one - other for one, other in pairs])
        assert len(pairs) == (2 if ("t2w", "none", 0.5) in (each.minuend, each.subtrahend) else 3)
        assert each.estimate.trials == pytest.approx(expected)
        assert each.estimate.sd == pytest.approx(np.std(expected, ddof=1))
        assert each.estimate.interval is not None and each.estimate.p_value is not None
        # A trial's luck counts: intervals that know it are no narrower than it makes them.
        assert np.diff(each.estimate.interval)[0] >= 2 * 1.96 * np.std(expected, ddof=1) / len(expected) ** 0.5


def test_intervals_and_p_values_agree(results: Results) -> None:
    for each in [*results.pretraining, *results.sequences]:
        low, high = each.estimate.interval or (0.0, 0.0)
        assert (low > 0 or high < 0) == ((each.estimate.p_value or 1.0) < 0.05)
        assert each.p_holm is not None and each.p_holm >= (each.estimate.p_value or 0.0)


def test_the_covariance_of_trials_is_that_of_new_patients(results: Results) -> None:
    """Two fixed classifiers judged on many samples of patients: their areas covary as the resamples say."""
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 2
    areas = []
    for _ in range(200):
        case = rng.normal(size=60)
        both = [1 / (1 + np.exp(-1.0 * labels - case - rng.normal(size=60))) for _ in range(2)]
        areas.append([classification_figures(labels, values)["auc"] for values in both])
    expected = float(np.cov(np.array(areas, float).T)[0, 1])
    found = results.estimates[("bpmri", "none", 0.5), "auc"]
    assert found.interval is not None and found.sd is not None
    # Read back from the interval's width: (half / t)^2 = s^2 / 3 + covariance.
    from scipy import stats

    half, own = (found.interval[1] - found.interval[0]) / 2, found.sd**2 / 3
    grid = np.linspace(own, own + 10 * expected, 20001)[1:]
    widths = stats.t.ppf(0.975, 2 * grid**2 / own**2) * np.sqrt(grid)
    covariance = float(grid[np.argmin(abs(widths - half))] - own)
    assert 0.4 * expected < covariance < 2.5 * expected


def test_rows(results: Results) -> None:
    rows = {(row[0], row[1], row[2], row[3]): row for row in summary_rows(results)}
    assert len(rows) == 2 * 10
    area = rows["bpmri", "synthetic", "0", "auc"]
    assert area[4] == 3 and float(str(area[6])) > 0.05
    assert float(str(area[9])) < float(str(area[11])) and float(str(area[10])) >= float(str(area[12]))
    differences = difference_rows(results.pretraining)
    assert all(len(row) == 16 for row in differences)
    assert {row[5] for row in differences} == {2, 3}

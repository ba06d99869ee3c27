"""Intervals of a classifier's figures: by patient, exact at the edges, and none where the data tell none."""

import numpy as np
import pytest
from scipy import stats

from ccella.metrics.bootstrap import bootstrap_intervals
from ccella.metrics.classification import classification_figures, weighted_figures
from ccella.metrics.intervals import FEWEST_PATIENTS, difference_intervals, edge_bounds, figure_intervals


def cases(seed, n=120, prevalence=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(int)
    labels[:2] = 0, 1
    return labels, 1 / (1 + np.exp(-rng.normal(labels * 1.5 - 1, 1)))


def bounds_of(intervals):
    return {name: interval.bounds for name, interval in intervals.items() if interval.bounds is not None}


def test_bootstrap_repeats_and_brackets_the_value():
    labels, probabilities = cases(2)
    patients = [str(i) for i in range(len(labels))]
    intervals = figure_intervals(labels, probabilities, patients, repeats=200, seed=0)
    figures = classification_figures(labels, probabilities)
    assert all(low <= figures[name] <= high for name, (low, high) in bounds_of(intervals).items())
    assert intervals == figure_intervals(labels, probabilities, patients, repeats=200, seed=0)
    assert intervals != figure_intervals(labels, probabilities, patients, repeats=200, seed=1)


def test_bootstrap_by_patient_sees_that_repeated_exams_are_no_new_evidence():
    labels, probabilities = cases(3)
    patients = [str(i) for i in range(len(labels))]
    once = figure_intervals(labels, probabilities, patients, repeats=400)["auc"].bounds
    by_patient = figure_intervals(np.tile(labels, 9), np.tile(probabilities, 9), patients * 9, repeats=400)[
        "auc"
    ].bounds
    by_exam = figure_intervals(
        np.tile(labels, 9), np.tile(probabilities, 9), [str(i) for i in range(9 * len(labels))], repeats=400
    )["auc"].bounds
    width = np.diff(once)[0]
    assert np.diff(by_patient)[0] == pytest.approx(width, rel=0.15)
    assert np.diff(by_exam)[0] < 0.5 * width


def test_difference_intervals_is_antisymmetric():
    labels, first = cases(7)
    second = np.random.default_rng(0).random(len(labels))
    patients = [str(i) for i in range(len(labels))]
    forth = difference_intervals(labels, first, second, patients, repeats=100)["auc"].bounds
    back = difference_intervals(labels, second, first, patients, repeats=100)["auc"].bounds
    assert forth == pytest.approx((-back[1], -back[0]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sizes", [None, [2] * 7])
def test_bootstrap_of_two_positive_patients_holds_the_value(seed, sizes):
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [2, 20])
    scores = 1 / (1 + np.exp(-rng.normal(labels * 2 - 1, 1)))
    patients = [str(i) for i in range(22)]
    values = weighted_figures(labels, scores, np.ones((1, 22)))[0]
    found = bootstrap_intervals(
        lambda weights: weighted_figures(labels, scores, weights), patients, labels, repeats=300, seed=0, sizes=sizes
    )
    for value, bounds in zip(values, found, strict=True):
        assert bounds is None or bounds[0] <= value <= bounds[1]
    area = figure_intervals(labels, scores, patients, repeats=300)["auc"]
    if values[1] < 1:
        assert (area.bounds, area.method) == (None, None)
        assert area.reason == f"it rests on 2 patients; at least {FEWEST_PATIENTS} are due"


def test_a_skewed_figure_of_few_patients_does_not_turn_its_interval_around():
    # The cube of a mean with one far value: the acceleration is large, and Student's t of two patients is far out.
    values = np.append(np.linspace(0, 1, 10), 30.0)
    labels, patients = np.append(np.zeros(10, int), 1), [str(i) for i in range(11)]

    def figures(weights):
        return (weights @ values[:, None] / weights.sum(1, keepdims=True)) ** 3

    ((low, high),) = bootstrap_intervals(figures, patients, labels, repeats=200, seed=0, sizes=[2])
    assert low < values.mean() ** 3 < high


@pytest.mark.parametrize("count", [1, 5, 40])
def test_edge_bounds_are_those_of_clopper_and_pearson(count):
    assert edge_bounds(1.0, count) == pytest.approx((stats.beta.ppf(0.025, count, 1), 1.0))
    assert edge_bounds(0.0, count) == pytest.approx((0.0, stats.beta.ppf(0.975, 1, count)))


def test_perfect_figures_have_exact_bounds_that_count_patients_once():
    # 10 positive and 20 negative patients of two exams each, all called right.
    patients = [str(i) for i in np.repeat(np.arange(30), 2)]
    labels = np.repeat([1, 0], [20, 40])
    found = figure_intervals(labels, labels * 0.8 + 0.1 * np.linspace(0, 1, 60), patients, repeats=100)
    expected = {"auc": 10, "accuracy": 30, "sensitivity": 10, "specificity": 20, "ppv": 10, "npv": 20}
    for name, count in expected.items():
        assert found[name].bounds == pytest.approx((0.025 ** (1 / count), 1.0))
        assert found[name].method == "exact"
    assert found["average_precision"].bounds is None
    assert "in order" in found["average_precision"].reason


def test_figures_of_too_few_patients_have_none_and_the_others_do():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [FEWEST_PATIENTS - 1, 80])
    scores = 1 / (1 + np.exp(-rng.normal(labels - 0.5, 1)))
    found = figure_intervals(labels, scores, [str(i) for i in range(len(labels))], repeats=200)
    methods = {name: interval.method for name, interval in found.items()}
    assert methods == dict.fromkeys(("average_precision", "auc", "sensitivity", "ppv", "npv")) | {
        "accuracy": "bootstrap", "specificity": "bootstrap",
    }  # fmt: skip


def test_figures_that_are_not_defined_or_never_vary():
    labels = np.repeat([1, 0], [20, 30])
    patients = [str(i) for i in range(50)]
    found = figure_intervals(labels, np.full(50, 0.1), patients, repeats=100)
    assert found["ppv"].reason == "no exam is called positive"
    assert found["auc"].reason == "no resample differs"
    assert found["sensitivity"].bounds == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert found["specificity"].method == "exact"


def test_differences_that_never_vary_have_no_interval_unless_the_classifiers_are_one():
    labels = np.repeat([1, 0], [20, 30])
    patients = [str(i) for i in range(50)]
    first, second = labels * 0.9, labels * 0.8 + 0.05
    found = difference_intervals(labels, first, second, patients, repeats=100)
    assert {interval.bounds for interval in found.values()} == {None}
    same = difference_intervals(labels, first, first, patients, repeats=100)
    assert {interval.bounds for interval in same.values()} == {(0.0, 0.0)}

"""Classification figures against scikit-learn and a published worked example of DeLong's test."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ccella.metrics.classification import (
    classification_figures,
    holm,
    precision_recall_points,
    roc_points,
)
from ccella.metrics.delong import area_covariance, compare_areas

# Albumin, total protein, K-G score and outcome of 43 patients: DeLong, DeLong and Clarke-Pearson 1988, also the worked
# example of a statistics package's manual, whose figures are below.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def cases(seed, n=120, prevalence=0.3, ties=True):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(int)
    labels[:2] = 0, 1
    probabilities = 1 / (1 + np.exp(-rng.normal(labels * 1.5 - 1, 1)))
    return labels, np.round(probabilities, 1) if ties else probabilities


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False])
def test_figures_agree_with_sklearn(seed, ties):
    labels, probabilities = cases(seed, ties=ties)
    figures = classification_figures(labels, probabilities, threshold=0.4)
    called = probabilities >= 0.4
    expected = {
        "average_precision": sklearn_metrics.average_precision_score(labels, probabilities),
        "auc": sklearn_metrics.roc_auc_score(labels, probabilities),
        "accuracy": sklearn_metrics.accuracy_score(labels, called),
        "sensitivity": sklearn_metrics.recall_score(labels, called),
        "specificity": sklearn_metrics.recall_score(labels, called, pos_label=0),
        "ppv": sklearn_metrics.precision_score(labels, called),
        "npv": sklearn_metrics.precision_score(labels, called, pos_label=0),
    }
    assert figures == pytest.approx(expected, rel=1e-12)


def test_curves_end_where_they_must_and_enclose_the_areas():
    labels, probabilities = cases(1)
    x, y = roc_points(labels, probabilities)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(classification_figures(labels, probabilities)["auc"])
    recall, precision = precision_recall_points(labels, probabilities)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(labels.mean())


def test_predictive_values_without_such_calls_are_unknown():
    labels = np.array([0, 1, 0, 1])
    figures = classification_figures(labels, np.full(4, 0.1))
    assert figures["ppv"] is None
    assert figures["npv"] == 0.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "what"),
    [([1, 1], [0.1, 0.2], "Both classes"), ([0, 1], [0.1, np.nan], "NaN"), ([0, 1, 1], [0.1, 0.2], "fit")],
)
def test_what_has_no_figures(labels, probabilities, what):
    with pytest.raises(ValueError, match=what):
        classification_figures(np.array(labels), np.array(probabilities))


def test_delong_reproduces_the_published_example():
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    score = 10 - score
    areas, covariance = area_covariance(outcome, np.stack([albumin, protein, score]))
    assert areas == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    comparison = compare_areas(outcome, protein, score)
    assert comparison.difference == pytest.approx(-0.0780, abs=5e-5)
    assert comparison.standard_error == pytest.approx(0.1046, abs=5e-5)
    assert comparison.interval == pytest.approx((-0.2830, 0.1271), abs=1e-4)
    assert comparison.z**2 == pytest.approx(0.5554, abs=1e-4)
    assert comparison.p_value == pytest.approx(0.4561, abs=1e-4)
    assert compare_areas(outcome, albumin, score).p_value == pytest.approx(0.9102, abs=1e-4)


def test_delong_covariance_is_that_of_the_placements():
    labels, first = cases(4)
    second = cases(5)[1]
    scores = np.stack([first, second])

    def wins(a, b):
        return (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])

    matrices = [wins(row[labels == 1], row[labels == 0]) for row in scores]
    expected = np.cov([m.mean(1) for m in matrices]) / matrices[0].shape[0]
    expected = expected + np.cov([m.mean(0) for m in matrices]) / matrices[0].shape[1]
    areas, covariance = area_covariance(labels, scores)
    assert areas == pytest.approx([m.mean() for m in matrices], rel=1e-12)
    assert covariance == pytest.approx(expected, rel=1e-9)


def test_classifiers_that_order_alike_do_not_differ():
    labels, probabilities = cases(6)
    comparison = compare_areas(labels, probabilities, probabilities**3)
    assert (comparison.difference, comparison.z, comparison.p_value) == (0.0, 0.0, 1.0)
    assert comparison.reason is None


def test_areas_that_differ_without_variance_have_no_test():
    labels = np.repeat([0, 1], 10)
    comparison = compare_areas(labels, labels * 0.9, np.full(20, 0.5))
    assert comparison.difference == 0.5
    assert (comparison.z, comparison.p_value, comparison.interval) == (None, None, None)
    assert "variance is 0" in comparison.reason
    both_perfect = compare_areas(labels, labels * 0.9, labels * 0.5 + np.linspace(0, 0.1, 20))
    assert (both_perfect.p_value, both_perfect.reason) == (1.0, None)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}

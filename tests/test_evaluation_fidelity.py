"""Distances beside their floors, with the exams of a patient kept together."""

import numpy as np
import pytest

from ccella.evaluation.fidelity import compare_features, nearest_in_features
from ccella.imaging.errors import InputError


def test_different_numbers_are_never_compared():
    with pytest.raises(ValueError, match="different numbers"):
        compare_features(np.zeros((12, 1, 4)), np.zeros((11, 1, 4)), seed=0, neighbours=False)


def test_floor_of_repeated_exams_is_that_of_patients():
    # Every patient has two equal exams: drawn apart, either half would hold many exams of the other.
    rng = np.random.default_rng(0)
    real, synthetic = (np.repeat(rng.normal(size=(20, 1, 6)), 2, axis=0) for _ in range(2))
    names = [f"p{i // 2}" for i in range(40)], [f"s{i // 2}" for i in range(40)]
    apart = compare_features(real, synthetic, seed=0, neighbours=False)
    together = compare_features(real, synthetic, seed=0, neighbours=False, patients=names)
    assert (apart["half_n"], together["half_n"], together["patients"]) == (20, 19, 20)
    assert together["fid"]["floor"] > 1.3 * apart["fid"]["floor"]
    assert together["kid"]["sd"] > 1.2 * apart["kid"]["sd"]
    assert together["fid"]["value"] == apart["fid"]["value"]


def test_too_few_patients_cannot_be_halved():
    features = np.random.default_rng(0).normal(size=(12, 1, 4))
    with pytest.raises(InputError, match="12 real exams are of 2 patients"):
        compare_features(features, features, seed=0, neighbours=False, patients=(["a"] * 10 + ["b"] * 2, ["c"] * 12))


def test_nearest_pairs_are_listed_the_closest_first():
    real, synthetic = np.array([[0.0], [10.0], [11.0], [30.0]]), np.array([[29.0], [0.5], [14.0]])
    found = nearest_in_features(real, synthetic, "abcd", "xyz", list("ppqr"))
    assert found["pairs"] == [
        {"id": "y", "real_id": "a", "distance": 0.5},
        {"id": "x", "real_id": "d", "distance": 1.0},
        {"id": "z", "real_id": "c", "distance": 3.0},
    ]
    # Exams a and b are of one patient: distances to others are 11, 1, 1 and 19.
    assert (found["synthetic"], found["real"]) == (1.0, 6.0)
    assert nearest_in_features(real, synthetic, "abcd", "xyz", list("pppp"))["real"] is None

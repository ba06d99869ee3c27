"""Fréchet and kernel distances, overlap and structure against independent computations and published figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from ccella.metrics.drawing import draw_halves, half_size, shuffle_by_patient
from ccella.metrics.frechet import frechet_distance
from ccella.metrics.kernel import chosen_distances, kernel_distance, subset_distances
from ccella.metrics.neighbours import overlap
from ccella.metrics.structure import diversity, ms_ssim


def features(seed, n, d, shift=0.0, scale=1.0):
    mixing = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    return np.random.default_rng(seed).normal(shift, scale, (n, d)) @ mixing


def reference_frechet(x, y):
    """The definition, with the square root of a matrix from its Schur form."""
    s, t = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(s @ t)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real


@pytest.mark.parametrize(("n", "d"), [(400, 12), (60, 8)])
def test_frechet_with_more_samples_than_features(n, d):
    x, y = features(0, n, d), features(1, n + 7, d, shift=0.3, scale=1.2)
    assert frechet_distance(x, y) == pytest.approx(reference_frechet(x, y), rel=1e-9)


def test_both_forms_of_the_trace_agree():
    # Zero columns add features without adding variance, so the same distance goes through the other form.
    x, y = features(0, 40, 10), features(1, 40, 10, shift=0.2)
    wide = [np.pad(sample, ((0, 0), (0, 50))) for sample in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(x, y), rel=1e-10)


def test_frechet_of_known_gaussians():
    # One feature: (mean difference)^2 + (difference of standard deviations)^2.
    x, y = np.array([[0.0], [2.0], [4.0]]), np.array([[5.0], [6.0], [7.0]])
    assert frechet_distance(x, y) == pytest.approx(16.0 + 1.0, rel=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(50, 247), (200, 147), (620, 58)])
def test_frechet_bias_of_two_samples_of_one_distribution(n, expected):
    # The known bias at d = 512, for features as a network's last layer gives them: rectified mixtures.
    d = 512
    mixing = np.random.default_rng(9).normal(size=(d, d)) / np.sqrt(d)
    rng = np.random.default_rng(0)
    x, y = (np.maximum(rng.normal(size=(n, d)) @ mixing, 0) for _ in range(2))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=0.05)
    # The spread of the kernel distance shrinks with n; its mean is 0 at every n.
    assert abs(kernel_distance(x, y)) < 0.25 / n


def test_kernel_distance_is_the_mean_over_distinct_pairs():
    x, y = features(0, 7, 5), features(1, 6, 5, shift=0.5)

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(6) for j in range(6) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=1e-12)


def test_subsets_spread_around_the_value_and_repeat():
    x, y = features(0, 60, 16), features(1, 60, 16, shift=0.5)
    values = subset_distances(x, y, subsets=50, seed=3)
    assert values.std() > 0
    assert values.mean() == pytest.approx(kernel_distance(x, y), rel=0.15)
    assert np.array_equal(values, subset_distances(x, y, subsets=50, seed=3))
    assert not np.array_equal(values, subset_distances(x, y, subsets=50, seed=0))


def test_rows_of_a_group_are_drawn_together():
    # With all rows of an item equal, subsets of items are subsets of the items' single rows, up to repeated pairs.
    x, y = features(0, 40, 8), features(1, 40, 8, shift=0.5)
    doubled = subset_distances(np.repeat(x, 2, 0), np.repeat(y, 2, 0), subsets=300, group_size=2)
    split = subset_distances(np.repeat(x, 2, 0), np.repeat(y, 2, 0), subsets=300)
    # Breaking pairs up spreads a subset over more items, so it varies less.
    assert doubled.std() > 1.2 * split.std()
    with pytest.raises(ValueError, match="whole groups"):
        subset_distances(x[:39], y, group_size=2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 20), d=st.integers(1, 30))
def test_frechet_is_symmetric_and_zero_on_itself(seed, n, d):
    x, y = np.random.default_rng(seed).normal(size=(2, n, d))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9, abs=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9 * d * 10)


@pytest.mark.parametrize("compare", [frechet_distance, kernel_distance])
def test_what_cannot_be_compared(compare):
    with pytest.raises(ValueError, match="shapes"):
        compare(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="shapes"):
        compare(np.ones((5, 3)), np.ones((5, 4)))


def test_nan_features_are_refused():
    x = np.ones((4, 2))
    x[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(x, np.ones((4, 2)))


def test_overlap_of_equal_and_of_distant_samples():
    x = features(0, 80, 6)
    same = overlap(x, x)
    # Each item lies in its own ball and, being one of its k + 1 nearest, in about k + 1 others' balls.
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert same.density == pytest.approx(6 / 5, rel=1e-12)
    far = overlap(x, x + 1000.0)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_overlap_tells_fidelity_from_diversity():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (60, 4)), rng.normal(30, 1, (60, 4))])
    one_mode = rng.normal(0, 1, (120, 4))
    figures = overlap(real, one_mode)
    assert figures.precision > 0.8
    assert figures.recall < 0.55
    assert figures.coverage < 0.55


def test_overlap_by_hand():
    real, synthetic = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.5], [10.0]])
    # k = 1: real radii 1, 1, 2; synthetic radii 2, 2, 7.5.
    figures = overlap(real, synthetic, k=1)
    assert figures.precision == pytest.approx(2 / 3)
    assert figures.recall == pytest.approx(1.0)
    assert figures.density == pytest.approx((2 + 1 + 0) / 3)
    assert figures.coverage == pytest.approx(1.0)


def test_ms_ssim_of_equal_images_and_of_a_constant_shift():
    x = np.random.default_rng(0).random((24, 24, 24))
    assert ms_ssim(x, x) == pytest.approx(1.0, abs=1e-12)
    # A shift leaves contrast and structure alone, so only the luminance of the last scale is below 1.
    shifted = ms_ssim(x, x + 0.5)
    luminance = np.mean(ssim_luminance(x, x + 0.5))
    assert shifted == pytest.approx(luminance ** (0.3001 / 0.6305), rel=1e-3)


def ssim_luminance(x, y):
    mean_x, mean_y = x.mean(), y.mean()
    return (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)


def test_ms_ssim_agrees_with_monai():
    torch = pytest.importorskip("torch")
    from monai.metrics.regression import MultiScaleSSIMMetric

    rng = np.random.default_rng(1)
    x = rng.random((32, 32, 24))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    weights = tuple(weight / 0.6305 for weight in (0.0448, 0.2856, 0.3001))
    metric = MultiScaleSSIMMetric(3, data_range=1.0, kernel_size=5, kernel_sigma=1.5, weights=weights)
    theirs = metric(*(torch.from_numpy(a)[None, None].double() for a in (x, y))).item()
    assert ms_ssim(x, y) == pytest.approx(theirs, abs=2e-3)


def test_ms_ssim_refuses_what_is_too_thin():
    with pytest.raises(ValueError, match="20"):
        ms_ssim(np.ones((64, 64, 16)), np.ones((64, 64, 16)))


def test_diversity_counts_pairs():
    images = np.random.default_rng(0).random((4, 20, 20, 20))
    mean, error, pairs = diversity(lambda i: images[i], 4, pairs=100)
    assert pairs == 6
    assert 0 < mean < 0.5
    assert error > 0
    assert diversity(lambda i: images[0], 4)[0] == pytest.approx(1.0)
    # Two patients of two images each: four pairs of different patients, and none is left without one of them.
    mean, error, pairs = diversity(lambda i: images[i], 4, patients=["a", "b", "a", "b"])
    assert (pairs, error) == (4, None)
    assert mean == pytest.approx(np.mean([ms_ssim(images[i], images[j]) for i in (0, 2) for j in (1, 3)]))
    with pytest.raises(ValueError, match="no pairs of different patients"):
        diversity(lambda i: images[i], 4, patients=["a"] * 4)


def test_error_of_diversity_is_the_jackknife_over_images():
    # Images that mix one texture to different degrees: pairs that share an image belong together.
    rng = np.random.default_rng(0)
    texture = rng.random((20, 20, 20))
    images = [share * texture + (1 - share) * rng.random(texture.shape) for share in rng.random(6)]
    values = {(i, j): ms_ssim(images[i], images[j]) for i in range(6) for j in range(i + 1, 6)}
    left_out = [np.mean([value for pair, value in values.items() if i not in pair]) for i in range(6)]
    _, error, _ = diversity(lambda i: images[i], 6)
    assert error == pytest.approx(np.sqrt(5 / 6 * np.sum((left_out - np.mean(left_out)) ** 2)))
    assert error > 1.3 * np.std(list(values.values()), ddof=1) / np.sqrt(15)


def test_halves_share_no_patient_and_are_equally_large():
    patients = list("aaabbccdefghij")
    assert half_size(patients) == 6
    for seed in range(50):
        first, second = draw_halves(np.random.default_rng(seed), patients)
        assert len(first) == len(second) == len({*first, *second}) / 2 == 6
        assert not {patients[i] for i in first} & {patients[i] for i in second}
    alone = [str(i) for i in range(9)]
    expected = np.random.default_rng(3).permutation(9)
    assert np.array_equal(shuffle_by_patient(np.random.default_rng(3), alone), expected)
    assert np.array_equal(np.concatenate(draw_halves(np.random.default_rng(3), alone)), expected[:8])


def test_kernel_distances_of_chosen_rows_are_those_of_the_rows():
    x, y = features(0, 12, 5), features(1, 9, 5, shift=0.5)
    chosen_x, chosen_y = np.zeros((12, 2)), np.zeros((9, 2))
    chosen_x[[1, 4, 7], 0] = chosen_x[[0, 2, 3, 11], 1] = chosen_y[[0, 8], 0] = chosen_y[[2, 3, 4], 1] = 1
    expected = [kernel_distance(x[chosen_x[:, i] > 0], y[chosen_y[:, i] > 0]) for i in range(2)]
    assert chosen_distances(x, y, chosen_x, chosen_y) == pytest.approx(expected, rel=1e-10)

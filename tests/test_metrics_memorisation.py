"""Copies are found, strangers are not, and the search equals a plain one."""

import itertools

import numpy as np
import pytest

from ccella.metrics.memorisation import MIRRORS, copy_threshold, find_nearest, shrink


def strangers(seed, count, shape=(8, 9, 7)):
    """Images that share an anatomy and differ in detail."""
    anatomy = np.random.default_rng(123).normal(size=shape)
    detail = np.random.default_rng(seed).normal(size=(count, *shape))
    return (anatomy + detail).astype(np.float32)


def plain_search(queries, references):
    best = []
    for query in queries:
        found = [
            (np.corrcoef(query.ravel(), np.flip(reference, axes).ravel())[0, 1], index, mirror)
            for index, reference in enumerate(references)
            for mirror, axes in enumerate(MIRRORS)
        ]
        best.append(max(found))
    return best


@pytest.mark.parametrize("block_bytes", [1, 5000, 2**20])
def test_search_equals_a_plain_one_whatever_the_block(block_bytes):
    queries, references = strangers(0, 6), strangers(1, 11)
    found = find_nearest(queries, references, block_bytes=block_bytes)
    for number, (correlation, index, mirror) in enumerate(plain_search(queries, references)):
        assert found.correlation[number] == pytest.approx(correlation, abs=1e-5)
        assert (found.index[number], found.mirror[number]) == (index, mirror)


def test_every_planted_copy_is_found_and_no_stranger():
    training, independent = strangers(1, 40), strangers(2, 40)
    rng = np.random.default_rng(5)
    copies = [
        training[3],
        np.flip(training[7], 0),
        training[11] + 0.05 * np.ptp(training[11]) * rng.normal(size=(8, 9, 7)),
    ]
    queries = np.stack([*copies, *strangers(3, 30)]).astype(np.float32)
    found = find_nearest(queries, training)
    limit = copy_threshold(find_nearest(independent, training).correlation)
    assert found.index[:3].tolist() == [3, 7, 11]
    assert found.mirror[:3].tolist() == [0, 1, 0]
    assert found.correlation[:2] == pytest.approx(1.0, abs=1e-5)
    assert (found.correlation > limit).tolist() == [True] * 3 + [False] * 30


def test_memory_holds_two_blocks_not_two_sets():
    class Lazy:
        """Counts how many images are asked for, and holds none."""

        def __init__(self, count):
            self.count, self.loads = count, 0

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            self.loads += 1
            return np.random.default_rng(index).normal(size=(4, 4, 4)).astype(np.float32)

    queries, references = Lazy(10), Lazy(30)
    found = find_nearest(queries, references, block_bytes=4 * 64 * 5)
    # Two blocks of five queries; the references pass by once for each.
    assert references.loads == 60
    assert found.index.tolist() == list(range(10))


def test_an_image_without_contrast_correlates_with_nothing():
    images = strangers(0, 3)
    flat = np.full((1, *images.shape[1:]), 0.3, np.float32)
    assert find_nearest(flat, images).correlation == pytest.approx(0.0)
    assert np.isfinite(find_nearest(images, np.concatenate([flat, images])).correlation).all()


def test_exams_of_the_same_patient_are_passed_over():
    images = strangers(0, 4)
    groups = ["a", "a", "b", "c"]
    found = find_nearest(images, images, query_groups=groups, reference_groups=groups)
    assert all(groups[i] != groups[j] for i, j in enumerate(found.index))
    alone = find_nearest(images[:2], images[:2], query_groups=["a", "a"], reference_groups=["a", "a"])
    assert alone.index.tolist() == [-1, -1]
    assert alone.correlation.tolist() == [0.0, 0.0]


def test_threshold_follows_the_independent_images():
    near, far = copy_threshold(np.linspace(0.85, 0.9, 50)), copy_threshold(np.linspace(0.3, 0.5, 50))
    assert 0.5 < far < near < 1.0
    assert copy_threshold(np.full(10, 0.8)) > 0.8
    assert copy_threshold(np.ones(10)) <= 1.0
    with pytest.raises(ValueError, match="2 independent"):
        copy_threshold(np.ones(2))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        find_nearest([np.ones((2, 2, 2))], [np.ones((2, 2, 3))])
    with pytest.raises(ValueError, match="0 queries"):
        find_nearest([], strangers(0, 2))


@pytest.mark.parametrize(
    ("shape", "most", "expected"), [((8, 6), 4, (4, 3)), ((9, 4, 4), 4, (3, 4, 4)), ((3, 3), 8, (3, 3))]
)
def test_shrink_takes_means_of_cells(shape, most, expected):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    small = shrink(image, most)
    assert small.shape == expected
    steps = [-(-size // most) for size in shape]
    for place in itertools.product(*map(range, expected)):
        cell = image[tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, steps, strict=True))]
        assert small[place] == pytest.approx(cell.mean(), rel=1e-5)

import numpy as np
import pytest

from ccella.metrics.prompt_fidelity import (
    Reading,
    Truth,
    bootstrap_intervals,
    compare_places,
    compare_readings,
    read_exam,
)

SPACING = (1.5, 1.5, 3.0)


def exam_with_lesion(centre, radius_mm, zone):
    """Probabilities and ADC of a box-shaped gland with one ball in it."""
    shape = (40, 36, 20)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(float)
    gland = (np.abs(grid[0] - 20) < 12) & (np.abs(grid[1] - 18) < 10) & (np.abs(grid[2] - 10) < 6)
    distance = sum(((grid[i] - centre[i]) * SPACING[i]) ** 2 for i in range(3)) ** 0.5
    lesion = distance <= radius_mm
    probabilities = np.zeros((5, *shape))
    probabilities[0] = ~gland
    probabilities[1] = gland
    probabilities[:, lesion] = 0.0
    probabilities[3 if zone == "PZ" else 4, lesion] = 1.0
    adc = np.where(lesion, 800.0, np.where(gland, 1600.0, 1200.0))
    return probabilities, adc


@pytest.mark.parametrize(("x", "side"), [(12, "left"), (28, "right")])
@pytest.mark.parametrize("zone", ["PZ", "TZ"])
def test_reads_side_zone_size_and_contrast(x, side, zone):
    reading = read_exam(*exam_with_lesion((x, 14, 10), 7.5, zone), SPACING)
    assert reading.side == side
    assert reading.zone == zone
    assert reading.diameter_mm == pytest.approx(15.0, rel=0.08)
    assert reading.adc_contrast == pytest.approx(0.5, abs=0.01)
    assert reading.lesion_score > 0.8


def test_a_clean_exam_scores_zero():
    probabilities, adc = exam_with_lesion((12, 14, 10), 0.0, "PZ")
    probabilities[3] = 0.0
    reading = read_exam(probabilities, adc, SPACING)
    assert reading.lesion_score == 0.0
    assert reading.diameter_mm == 0.0


def test_shapes_must_fit():
    probabilities, adc = exam_with_lesion((12, 14, 10), 5.0, "PZ")
    with pytest.raises(ValueError, match="do not fit"):
        read_exam(probabilities, adc[:-1], SPACING)


def reading(score, side="left", zone="PZ", diameter=10.0):
    return Reading(score, side, zone, diameter, 0.6)


def test_agreement_is_counted_by_hand():
    truths = [Truth(True, "left", "PZ", 10.0), Truth(True, "right", "TZ", 20.0), Truth(False), Truth(False)]
    readings = [reading(0.9), reading(0.2, "right", "PZ", 25.0), reading(0.5), reading(0.1)]
    figures = compare_readings(readings, truths)
    # Of the four positive-negative pairs, 0.9 beats both and 0.2 beats one.
    assert figures["lesion_auc"] == pytest.approx(0.75)
    assert figures["side_accuracy"] == 1.0
    assert figures["zone_accuracy"] == 0.5
    assert figures["size_spearman"] == pytest.approx(1.0)


def test_accuracy_by_place_is_counted_by_hand():
    truths = [
        Truth(True, "left", "PZ", 10.0, "anterior"),
        *[Truth(True, "right", "PZ", 12.0, "posterolateral")] * 10,
        Truth(True, "left", "PZ", 9.0, "anterior"),
        Truth(False),
    ]
    rights = [reading(0.9, "right", "PZ")] * 9 + [reading(0.9, "left", "PZ")]
    readings = [reading(0.9, "left", "TZ"), *rights, reading(0.9, "right", "PZ"), reading(0.1)]
    anterior, posterolateral = compare_places(readings, truths)
    assert (anterior.zone, anterior.sector, anterior.lesions) == ("PZ", "anterior", 2)
    assert (anterior.side.value, anterior.zone_read.value) == (0.5, 0.5)
    assert (posterolateral.sector, posterolateral.lesions) == ("posterolateral", 10)
    assert posterolateral.zone_read.value == 1.0
    # Wilson's score interval of 9 in 10: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n) with z = 1.96.
    assert posterolateral.side.value == 0.9
    assert posterolateral.side.interval == pytest.approx((0.5958, 0.9821), abs=1e-4)
    with pytest.raises(ValueError, match="zip"):
        compare_places(readings[:-1], truths)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="with and without"):
        compare_readings([reading(0.5)], [Truth(False)])


def test_intervals_hold_the_estimate_and_shrink_with_n():
    rng = np.random.default_rng(3)

    def width(n):
        truths = [Truth(i % 2 == 0, "left", "PZ", 8.0 + i % 7) for i in range(n)]
        readings = [reading(rng.normal(truth.positive), diameter=rng.uniform(5, 20)) for truth in truths]
        low, high = bootstrap_intervals(readings, truths, repeats=200)["lesion_auc"]
        assert low <= compare_readings(readings, truths)["lesion_auc"] <= high
        return high - low

    assert width(400) < 0.6 * width(50)

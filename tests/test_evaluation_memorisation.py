"""The yardstick of the memorisation audit: independent images, or a refusal."""

import numpy as np
import pytest

from ccella.evaluation.memorisation import Pool, audit_memorisation
from ccella.imaging.errors import InputError

SHAPE = (8, 9, 7)


def strangers(seed, count):
    """Images that share an anatomy and differ in detail."""
    anatomy = np.random.default_rng(123).normal(size=SHAPE)
    return (anatomy + np.random.default_rng(seed).normal(size=(count, *SHAPE))).astype(np.float32)


def pool(name, images, patients=None, digests=()):
    ids = [f"{name}{i:02d}" for i in range(len(images))]
    return Pool(images, ids, patients or ids, digests)


TRAINING = strangers(1, 20)
COPIED = strangers(3, 12)
COPIED[5] = TRAINING[7]


def audit(holdout, training=TRAINING, patients=None, digests=()):
    return audit_memorisation(pool("s", COPIED), pool("r", training, patients, digests), holdout, seed=0)


def refused(message, holdout, **options):
    with pytest.raises(InputError, match=message) as caught:
        audit(holdout, **options)
    assert "--holdout" in caught.value.remedy


@pytest.mark.parametrize("holdout", [None, pool("h", strangers(2, 12))])
def test_the_copy_is_flagged_with_either_yardstick(holdout):
    assert audit(holdout)["flagged"] == ["s05"]


def test_a_holdout_of_training_exams_is_refused_whatever_it_is_called():
    refused("share the exam 'r00' and 11 more", pool("r", strangers(2, 12)))
    refused(r"'h\d\d' shows the image of the real exam 'r\d\d'", pool("h", TRAINING))
    one = strangers(2, 12)
    one[4] = TRAINING[11][:, ::-1]
    refused(r"'h04' shows the image of the real exam 'r11' \(correlation (1\.0|0\.9999)", pool("h", one))
    digests = [f"{i:064d}" for i in range(20)]
    refused(
        "'h02' has the file of the real exam 'r09'",
        pool("h", strangers(2, 3), digests=["a", "b", digests[9]]),
        digests=digests,
    )


def test_a_holdout_that_resembles_the_training_set_too_much_is_no_yardstick():
    rng = np.random.default_rng(5)
    resampled = TRAINING + 0.04 * rng.normal(size=TRAINING.shape).astype(np.float32)
    refused(r"no yardstick: .* \(median correlation 0\.999", pool("h", resampled))
    refused(r"no yardstick", None, training=np.concatenate([TRAINING, TRAINING]))


def test_patients_that_are_named_in_both_are_passed_over():
    holdout = strangers(2, 12)
    holdout[0] = TRAINING[3]
    patients = [f"p{i}" for i in range(20)]
    result = audit(pool("h", holdout, ["p3", *(f"q{i}" for i in range(11))]), patients=patients)
    assert result["flagged"] == ["s05"]
    assert result["independent"]["source"].endswith("(1 patients are named in both)")


def test_repeated_training_exams_are_left_out_and_one_patient_is_no_yardstick():
    result = audit(None, training=np.concatenate([TRAINING, TRAINING[:3]]))
    assert result["independent"]["n"] == 17
    assert result["independent"]["source"].endswith("6 repeated ones left out")
    assert result["flagged"] == ["s05"]
    refused("no yardstick: 0 real exams can be compared", None, patients=["one"] * 20)

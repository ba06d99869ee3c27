"""Splits: no patient in two, shares kept within classes, stable as a set grows."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.imaging.errors import InputError
from ccella.imaging.layouts import Exam
from ccella.imaging.splits import (
    assign_splits,
    parse_shares,
    patient_classes,
    read_splits,
    splits_from_column,
    write_splits,
)


def exam(number, patient, label=None, **meta):
    return Exam(f"{patient}_{number}", patient, {}, label=label, meta=meta)


def cohort(positive, negative, unknown=0):
    labels = [1] * positive + [0] * negative + [None] * unknown
    return [exam(0, f"p{number}", label) for number, label in enumerate(labels)]


def test_the_published_set_is_divided_as_published():
    """4152 exams as 3324/208/620 (Grabke et al.): 80:5:15 to within three exams."""
    exams = cohort(1400, 2752)
    counts = Counter(assign_splits(exams).values())
    assert all(abs(counts[name] - n) <= 3 for name, n in (("train", 3324), ("val", 208), ("test", 620)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_shares_hold_within_each_class_and_over_all(positive, negative, unknown):
    exams = cohort(positive, negative, unknown)
    splits = assign_splits(exams)
    classes = patient_classes(exams)
    assert set(splits) == set(classes)
    for stratum in (1, 0, None):
        chosen = [splits[patient] for patient in splits if classes[patient] == stratum]
        for name, share in (("train", 0.8), ("val", 0.05), ("test", 0.15)):
            assert abs(chosen.count(name) - share * len(chosen)) < 2
    for name, share in (("train", 0.8), ("val", 0.05), ("test", 0.15)):
        assert abs(list(splits.values()).count(name) - share * len(splits)) < 1


def test_a_patient_never_parts_and_the_order_of_exams_is_nothing():
    exams = [exam(visit, f"p{number % 40}", visit % 2) for visit in range(3) for number in range(40)]
    assert set(patient_classes(exams).values()) == {1}
    assert assign_splits(exams) == assign_splits(exams[::-1])
    assert len(assign_splits(exams)) == 40


def test_a_set_that_grows_keeps_its_splits():
    first = assign_splits(cohort(20, 20))
    grown = cohort(20, 20) + [exam(0, f"q{number}", number % 2) for number in range(60)]
    later = assign_splits(grown, known=first)
    assert all(later[patient] == split for patient, split in first.items())
    assert Counter(later.values()) == {"train": 80, "val": 5, "test": 15}


def test_a_column_decides_and_a_patient_in_two_splits_is_refused():
    exams = [exam(1, "a", split="Training"), exam(1, "b", split="valid"), exam(2, "b", split="val")]
    assert splits_from_column(exams, "split") == {"a": "train", "b": "val"}
    with pytest.raises(InputError, match="Patient 'a' is in two splits, train and test"):
        splits_from_column([*exams, exam(2, "a", split="test")], "split")
    with pytest.raises(InputError, match="'c_1' has split = 'fold3', which is no split"):
        splits_from_column([exam(1, "c", split="fold3")], "split")
    with pytest.raises(InputError, match="'c_1' has fold = ''"):
        splits_from_column([exam(1, "c")], "fold")


def test_files_come_back_and_contradictions_in_them_are_refused(tmp_path: Path):
    path = tmp_path / "splits.csv"
    splits = {"7": "test", "Zoë, M.": "train"}
    write_splits(path, splits, {"7": 1, "Zoë, M.": None})
    assert read_splits(path) == splits
    assert path.read_text(encoding="utf-8").splitlines()[1] == "7,test,1"
    path.write_text("patient_id,split\na,train\na,test\n", encoding="utf-8")
    with pytest.raises(InputError, match="Patient 'a' is in two splits"):
        read_splits(path)
    path.write_text("patient_id,split\na,dev\n", encoding="utf-8")
    with pytest.raises(InputError, match="'dev' for patient 'a'"):
        read_splits(path)


def test_shares_are_read():
    assert parse_shares("80:5:15") == pytest.approx((0.8, 0.05, 0.15))
    assert parse_shares("1:0:0") == (1.0, 0.0, 0.0)
    for wrong in ("80:20", "a:b:c", "0:1:1", "-1:1:1", "nan:1:1", "inf:1:1"):
        with pytest.raises(InputError, match="no shares"):
            parse_shares(wrong)

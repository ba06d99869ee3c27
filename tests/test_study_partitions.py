"""Splits and partitions."""

import hashlib
import itertools
from pathlib import Path

import pytest

from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.study.partitions import fraction_name, partition_exams, split_exams

FRACTIONS = (1.0, 0.5, 0.25, 0.125, 0.0625)


def exams(patients: int, positive_every: int = 4) -> list[Exam]:
    """Patients with one to three exams; a positive patient's first exam is negative."""
    found = []
    for number in range(patients):
        count = 1 + number % 3
        for study in range(count):
            label = int(number % positive_every == 0 and study == count - 1)
            found.append(Exam(f"{number}_{study}", str(number), {"t2w": Path("x")}, label=label))
    return found


def positive_share(found: list[Exam]) -> float:
    patients = {exam.patient_id for exam in found}
    positive = {exam.patient_id for exam in found if exam.label}
    return len(positive) / len(patients)


def test_no_patient_is_in_two_splits_and_classes_keep_their_shares() -> None:
    splits = split_exams(exams(400), (0.8, 0.05, 0.15), 0, "x")
    patients = [{exam.patient_id for exam in found} for found in splits.values()]
    assert [len(found) for found in patients] == [320, 20, 60]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert [positive_share(found) for found in splits.values()] == [0.25, 0.25, 0.25]


def test_partitions_are_nested_proportional_and_those_of_the_paper() -> None:
    """1329 exams of one each: the paper's parts hold 1329, 665, 332, 166 and 83."""
    single = [Exam(str(i), str(i), {"t2w": Path("x")}, label=int(i < 372)) for i in range(1329)]
    parts = partition_exams(single, FRACTIONS, 0)
    for count, part in zip((1329, 665, 332, 166, 83), parts.values(), strict=True):
        assert abs(len(part) - count) <= 1
        assert positive_share(part) == pytest.approx(0.28, abs=0.01)
    for larger, smaller in itertools.pairwise(FRACTIONS):
        assert {exam.id for exam in parts[smaller]} < {exam.id for exam in parts[larger]}


def test_the_smallest_part_has_both_classes() -> None:
    part = partition_exams(exams(8), (0.0001,), 0)[0.0001]
    assert {exam.label for exam in part} == {0, 1}


def test_the_order_depends_on_names_and_seed_alone() -> None:
    found = exams(40)
    one = partition_exams(found, (0.25,), 5)[0.25]
    assert {exam.id for exam in one} == {exam.id for exam in partition_exams(found[::-1], (0.25,), 5)[0.25]}
    assert {exam.id for exam in one} != {exam.id for exam in partition_exams(found, (0.25,), 6)[0.25]}
    negative = sorted({exam.patient_id for exam in found} - {exam.patient_id for exam in found if exam.label})
    first = min(negative, key=lambda name: hashlib.sha256(f"partition:5:{name}".encode()).digest())
    assert first in {exam.patient_id for exam in one}


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="2 patients of class 1"):
        split_exams(exams(8), (0.8, 0.05, 0.15), 0, "x")


def test_names_of_shares() -> None:
    assert [fraction_name(fraction) for fraction in (*FRACTIONS, 0.0)] == ["100", "50", "25", "12.5", "6.25", "0"]

"""Tables of predictions: what is read, what is refused, and what the result says."""

import json

import numpy as np
import pytest

from ccella.cli.main import run
from ccella.evaluation.prediction_report import write_prediction_report
from ccella.evaluation.prediction_sets import read_predictions
from ccella.evaluation.predictions import evaluate_predictions
from ccella.evaluation.tables import prediction_rows
from ccella.imaging.errors import InputError
from ccella.metrics.classification import classification_figures
from ccella.metrics.delong import compare_areas


def write(path, rows, header="id,patient_id,probability,label"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def rows(seed, n=80, strength=1.5):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    return [
        (f"e{i:03d}", f"p{i // 2:03d}", round(float(1 / (1 + np.exp(-rng.normal(strength * y - 1, 1)))), 4), int(y))
        for i, y in enumerate(labels)
    ]


def test_result_holds_the_figures_and_everything_to_repeat_them(tmp_path):
    table = write(tmp_path / "p.csv", rows(0))
    document, (predictions,) = evaluate_predictions(table, repeats=200, seed=0, threshold=0.4)
    entry = document["predictions"][0]
    expected = classification_figures(predictions.labels, predictions.probabilities, threshold=0.4)
    assert {name: figure["value"] for name, figure in entry["figures"].items()} == expected
    assert (entry["exams"], entry["patients"], entry["positives"]) == (80, 40, 27)
    assert (document["seed"], document["threshold"], document["bootstrap"]["repeats"]) == (0, 0.4, 200)
    assert len(entry["sha256"]) == 64
    assert (document["bootstrap"]["unit"], document["notes"]) == ("patient", [])
    assert {"scipy", "scikit-learn"} <= set(document["versions"])
    again, _ = evaluate_predictions(table, repeats=200, seed=0, threshold=0.4)
    assert json.dumps(again, allow_nan=False) == json.dumps(document, allow_nan=False)


def test_second_table_is_compared_on_the_same_exams_whatever_their_order(tmp_path):
    first, second = rows(0), rows(1, strength=0.5)
    p, q = write(tmp_path / "p.csv", first), write(tmp_path / "q.csv", second[::-1])
    document, tables = evaluate_predictions(p, q, repeats=200)
    expected = compare_areas(tables[0].labels, [row[2] for row in first], [row[2] for row in second])
    assert document["comparison"]["delong"]["p_value"] == pytest.approx(expected.p_value)
    assert document["comparison"]["delong"]["repeated_patients"] == 40
    low, high = document["comparison"]["differences"]["auc"]["interval"]
    assert low < document["comparison"]["differences"]["auc"]["value"] < high
    assert prediction_rows(document)[-1][0] == "DeLong"


def test_labels_from_a_pi_cai_marksheet(tmp_path):
    unlabelled = [(f"1{i:02d}_7{i:02d}", 0.1 + 0.02 * i) for i in range(20)]
    table = write(tmp_path / "p.csv", unlabelled, "id,probability")
    sheet = [(f"1{i:02d}", f"7{i:02d}", "YES" if i % 2 else "NO") for i in range(25)]
    labels = write(tmp_path / "marksheet.csv", sheet, "patient_id,study_id,case_csPCa")
    document, (predictions,) = evaluate_predictions(table, labels=labels, repeats=100)
    assert predictions.labels.sum() == 10
    assert predictions.patients[0] == "100"
    assert document["labelled_exams_without_prediction"] == 5


def refused(path, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        evaluate_predictions(path, repeats=100, **options)
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["nan", "", "1.2", "-0.1", "inf", "high"])
def test_a_probability_that_is_none(tmp_path, value):
    bad = rows(0)
    bad[5] = (*bad[5][:2], value, bad[5][3])
    refused(write(tmp_path / "p.csv", bad), r"line 7 is not a number in 0\.\.1")


def test_tables_that_mean_nothing(tmp_path):
    path = tmp_path / "p.csv"
    refused(tmp_path / "absent.csv", "does not exist")
    refused(write(path, []), "has no row")
    refused(write(path, [("a", 0.5)], "id,score"), "no column 'probability'")
    refused(write(path, [*rows(0), rows(0)[3]]), "two predictions for 'e003'")
    refused(write(path, [("", "p", 0.5, 1)]), "line 2 has no id")
    refused(write(path, [(*row[:3], 1) for row in rows(0)]), "All 80 exams .* are of class 1")
    refused(write(path, [(*row[:3], "maybe") for row in rows(0)]), "'maybe'")
    refused(write(path, [(*row[:3], "") for row in rows(0)]), "'e000' has no label")
    refused(write(path, [(i, "one patient", 0.5, i % 2) for i in range(20)]), "Every patient has a positive exam")


def test_labels_that_do_not_match(tmp_path):
    table = write(tmp_path / "p.csv", rows(0))
    few = write(tmp_path / "few.csv", [(row[0], row[3]) for row in rows(0)[:70]], "id,label")
    refused(table, "no label for 'e070'", labels=few)
    other = write(tmp_path / "other.csv", [(row[0], 1 - row[3]) for row in rows(0)], "id,label")
    refused(table, "has label 1 here and 0 in --labels", labels=other)
    twice = write(tmp_path / "twice.csv", [("e000", 1), ("e000", 0)], "id,label")
    refused(table, "two labels for 'e000'", labels=twice)


def test_tables_of_other_exams_are_not_compared(tmp_path):
    table = write(tmp_path / "p.csv", rows(0))
    refused(table, "has no prediction for 'e079'", other=write(tmp_path / "q.csv", rows(1)[:79]))
    flipped = [(*row[:3], 1 - row[3]) for row in rows(1)]
    refused(table, "Exam 'e000' has label 1", other=write(tmp_path / "q.csv", flipped))


def test_classify_columns_are_read(tmp_path):
    table = write(tmp_path / "p.csv", [(r[0], r[1], r[2], r[3]) for r in rows(0)], "id,patient_id,probability,class")
    assert read_predictions(table).labels.sum() == 27


def test_exams_without_patients_are_the_unit_and_the_result_says_so(tmp_path, capsys):
    table = write(tmp_path / "p.csv", [(row[0], row[2], row[3]) for row in rows(0)], "id,probability,label")
    document, (predictions,) = evaluate_predictions(table, repeats=100)
    assert (document["bootstrap"]["unit"], document["predictions"][0]["patients"]) == ("exam", None)
    assert "each exam counts as a patient" in document["notes"][0]
    assert predictions.patients == predictions.ids
    assert run(["evaluate", "predictions", str(table), "--repeats", "100", "--report", str(tmp_path / "r.html")]) == 0
    assert "each exam counts as a patient" in capsys.readouterr().err
    assert "each exam counts as a patient" in (tmp_path / "r.html").read_text(encoding="utf-8")
    empty = write(tmp_path / "e.csv", [(row[0], "", *row[2:]) for row in rows(0)])
    assert not read_predictions(empty).by_patient


def test_a_patient_column_that_is_partly_empty(tmp_path):
    some = [(row[0], " " if i == 4 else row[1], *row[2:]) for i, row in enumerate(rows(0))]
    refused(write(tmp_path / "p.csv", some), r"'e004' has no patient_id, while others have one \(1 of 80 lack it\)")


def test_one_table_names_the_patients_of_both(tmp_path):
    p = write(tmp_path / "p.csv", [(row[0], row[2], row[3]) for row in rows(0)], "id,probability,label")
    document, tables = evaluate_predictions(p, write(tmp_path / "q.csv", rows(1)), repeats=100)
    assert (document["bootstrap"]["unit"], document["comparison"]["delong"]["repeated_patients"]) == ("patient", 40)
    assert tables[0].patients == tables[1].patients
    other = [(row[0], "p999", *row[2:]) if i == 3 else row for i, row in enumerate(rows(1))]
    refused(write(tmp_path / "p.csv", rows(0)), "'e003' is of patient 'p001'", other=write(tmp_path / "q.csv", other))


def test_figures_without_interval_or_test_are_named_everywhere(tmp_path, capsys):
    labels = [int(i < 12) for i in range(40)]
    perfect = write(tmp_path / "p.csv", [(f"e{i:02d}", f"p{i:02d}", 0.1 + 0.8 * y, y) for i, y in enumerate(labels)])
    constant = write(tmp_path / "q.csv", [(f"e{i:02d}", f"p{i:02d}", 0.5, y) for i, y in enumerate(labels)])
    document, tables = evaluate_predictions(perfect, constant, repeats=100)
    figures = document["predictions"][0]["figures"]
    assert figures["auc"] == {"value": 1.0, "interval": [pytest.approx(0.025 ** (1 / 12)), 1.0], "method": "exact"}
    assert figures["average_precision"]["interval"] is None
    delong = document["comparison"]["delong"]
    assert (delong["p_value"], delong["interval"], delong["difference"]) == (None, None, 0.5)
    assert document["notes"][-1] == "DeLong: no test: the areas differ, but their estimated variance is 0."
    json.dumps(document, allow_nan=False)
    write_prediction_report(tmp_path / "r.html", document, tables)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(note.rsplit(":", 1)[1] in page for note in document["notes"])
    assert run(["evaluate", "predictions", str(perfect), str(constant), "--repeats", "100", "-q"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()][-1] == "DeLong"

"""Prompt fidelity on phantoms: the reader that ships sees what is there, and misses what is not."""

import json
import shutil
from dataclasses import replace

import pytest

from ccella.cli.main import run
from ccella.evaluation.prompt_report import write_prompt_report
from ccella.evaluation.prompts import evaluate_prompt
from ccella.imaging.errors import InputError
from ccella.imaging.phantom.dataset import write_phantoms
from ccella.zoo import phantom_reader
from ccella.zoo.errors import DigestMismatchError
from ccella.zoo.phantom_reader import build_reader, load_reader

COUNT = 10


pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Phantoms of a seed that the reader was not trained on, half of them with a lesion."""
    folder = tmp_path_factory.mktemp("phantoms")
    list(write_phantoms(folder, COUNT, 31_000, prevalence=0.5, workers=1))
    return folder


@pytest.fixture(scope="module")
def document(phantoms):
    return evaluate_prompt(phantoms, phantoms, repeats=100)


def test_reader_sees_the_lesions_of_phantoms(document):
    figures = document["phantoms"]["figures"]
    assert figures["lesion_auc"]["value"] > 0.9
    assert figures["side_accuracy"]["value"] > 0.7
    assert figures["adc_contrast"]["value"] < 0.9


def test_exams_that_are_the_phantoms_reach_the_ceiling(document):
    assert document["synthetic"] == document["phantoms"]
    assert document["class_head_auc"] is None
    assert document["exams"] == COUNT
    assert 0 < document["positives"] < COUNT
    # Every index lesion is counted at one place, and zones over all places make the zone accuracy.
    places = document["phantoms"]["places"]
    assert sum(place["lesions"] for place in places) == document["positives"]
    right = sum(place["lesions"] * place["zone_read"]["value"] for place in places)
    assert right / document["positives"] == pytest.approx(document["phantoms"]["figures"]["zone_accuracy"]["value"])
    json.dumps(document, allow_nan=False)


def swap_images(phantoms, target):
    """The phantoms with each exam's images replaced by the next one's: images that ignore their report."""
    shutil.copytree(phantoms, target)
    ids = sorted(path.stem for path in (phantoms / "findings").glob("*.json"))
    for identifier, other in zip(ids, [*ids[1:], ids[0]], strict=True):
        for channel in ("t2w", "hbv", "adc"):
            source = next(phantoms.glob(f"*/{other}_{channel}.nii.gz"))
            shutil.copyfile(source, next(target.glob(f"*/{identifier}_{channel}.nii.gz")))
    return target


def test_images_of_other_reports_fall_short(phantoms, document, tmp_path):
    swapped = evaluate_prompt(swap_images(phantoms, tmp_path / "s"), phantoms, repeats=100)
    low = swapped["synthetic"]["figures"]["lesion_auc"]["value"]
    assert low < document["phantoms"]["figures"]["lesion_auc"]["value"] - 0.2
    assert swapped["phantoms"] == document["phantoms"]


def test_exams_without_their_phantom_are_refused(phantoms, tmp_path):
    other = tmp_path / "phantoms"
    shutil.copytree(phantoms, other)
    gone = sorted((other / "findings").glob("*.json"))[0]
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.stem!r} has no phantom of that id") as caught:
        evaluate_prompt(phantoms, other, repeats=100)
    assert "ccella sample --prompt" in caught.value.remedy


def test_exams_of_one_kind_and_too_few_are_refused(phantoms, tmp_path, capsys):
    few = tmp_path / "few"
    list(write_phantoms(few, 3, 31_000, prevalence=0.5, workers=1))
    with pytest.raises(InputError, match="3 generated exams; at least 10"):
        evaluate_prompt(few, phantoms, repeats=100)
    negative = tmp_path / "negative"
    shutil.copytree(phantoms, negative)
    for path in (negative / "findings").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"lesions": []}), encoding="utf-8")
    assert run(["evaluate", "prompt", "--synthetic", str(phantoms), "--phantoms", str(negative)]) == 2
    assert "All 10 reports are without a lesion." in capsys.readouterr().err


def test_report_shows_every_exam_and_fetches_nothing(phantoms, document, tmp_path, capsys):
    page = tmp_path / "report.html"
    arguments = ["evaluate", "prompt", "--synthetic", str(phantoms), "--phantoms", str(phantoms), "--repeats", "100"]
    assert run([*arguments, "--report", str(page), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(document))
    text = page.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    # Two exams with a lesion and two without, each as sampled and as the phantom.
    assert text.count("<img") == 8
    rows = text.split("<tr>")
    for identifier, truth, reading in zip(
        document["ids"], document["truths"], document["synthetic"]["readings"], strict=True
    ):
        (row,) = (each for each in rows if each.startswith(f"<td>{identifier}</td>"))
        cells = row.replace("</td>", "").split("<td>")[1:]
        assert cells[1] == ("yes" if truth["positive"] else "no")
        assert float(cells[5]) == pytest.approx(reading["lesion_score"], rel=1e-3)
        assert cells[2] == (truth["side"] or "")
    # One dot per lesion and set.
    assert text.count('r="3"') == 2 * document["positives"]
    embedded = text.split('id="result">')[1].split("</script>")[0]
    assert json.loads(embedded) == json.loads(json.dumps(document))


def test_report_in_a_real_browser(document, tmp_path, show_page):
    write_prompt_report(tmp_path / "report.html", document)
    picture, tree = show_page(tmp_path / "report.html")
    # Text, drawings and pictures from top to bottom, not a blank or a broken page.
    assert all(band.std() > 3 for band in picture.reshape(8, 200, 1200))
    assert tree.count("<svg") == 3
    assert "</html>" in tree


def test_reader_is_the_one_that_is_pinned(monkeypatch):
    assert sum(p.numel() for p in load_reader().parameters()) == sum(p.numel() for p in build_reader().parameters())
    monkeypatch.setattr(phantom_reader, "WEIGHTS", replace(phantom_reader.WEIGHTS, sha256="0" * 64))
    with pytest.raises(DigestMismatchError, match="phantom-reader"):
        load_reader()

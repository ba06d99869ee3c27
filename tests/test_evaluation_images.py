"""Synthetic sets beside real ones: planted faults are seen, bad sets are refused, the report opens in a browser."""

import base64
import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from ccella.cli.main import run
from ccella.evaluation.image_features import SLICES, choose_slices
from ccella.evaluation.image_report import write_image_report
from ccella.evaluation.image_sets import open_sets
from ccella.evaluation.images import evaluate_images
from ccella.evaluation.prediction_report import write_prediction_report
from ccella.evaluation.predictions import evaluate_predictions
from ccella.imaging.errors import InputError
from ccella.imaging.files import write_volume
from ccella.imaging.volume import Volume
from ccella.zoo.extractors import find_extractor, load_extractor
from ccella.zoo.registry import DEFAULT_MODEL, find_card

SHAPE = (24, 24, 20)
COUNT = 12


def anatomy(rng, shape=SHAPE):
    """A bright ellipsoid of random place and size on a textured ground."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    centre, radius = rng.normal(0, 0.15, 3), rng.uniform(0.4, 0.7, 3)
    distance = (((grid - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0)
    return 800 / (1 + np.exp(8 * (distance - 1))) + 100 * rng.random(shape)


def write_exam(folder, name, data, spacing_mm=(1.5, 1.5, 3.0)):
    volume = Volume(data.astype(np.float32), np.diag([*spacing_mm, 1.0]))
    write_volume(folder / name / f"{name}_t2w.nii.gz", volume)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """12 real exams, and 12 synthetic ones of which three are copies: exact, mirrored, noisy at 5 % of the range."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    real = [anatomy(rng) for _ in range(COUNT)]
    for i, data in enumerate(real):
        write_exam(root / "real", f"r{i:02d}", data)
    copies = [real[2], real[5][::-1], np.clip(real[8] + 0.05 * np.ptp(real[8]) * rng.normal(size=SHAPE), 0, None)]
    for i in range(COUNT):
        write_exam(root / "synthetic", f"s{i:02d}", copies[i] if i < 3 else anatomy(rng))
    return root


def evaluate(sets, **options):
    options = {"own_grid": True, "sequences": ["t2w"], "seed": 0} | options
    extractors = [load_extractor(find_extractor("pyramid"))]
    return evaluate_images(
        options.pop("real", sets / "real"),
        options.pop("synthetic", sets / "synthetic"),
        template=find_card(DEFAULT_MODEL),
        extractors=extractors,
        **options,
    )


@pytest.fixture(scope="module")
def evaluation(sets):
    return evaluate(sets)


def test_planted_copies_are_named_and_no_other(evaluation):
    audit = evaluation.document["sequences"]["t2w"]["memorisation"]
    assert evaluation.document["flagged"] == ["s00", "s01", "s02"]
    nearest = {pair["id"]: (pair["training_id"], pair["mirrored_axes"]) for pair in audit["nearest"]}
    assert (nearest["s00"], nearest["s01"], nearest["s02"]) == (("r02", []), ("r05", [0]), ("r08", []))
    assert audit["training_images"] == COUNT
    assert audit["independent"]["n"] == COUNT


def test_result_repeats_and_holds_what_repeats_it(sets, evaluation):
    document = evaluation.document
    again = evaluate(sets).document
    assert json.dumps(again, allow_nan=False) == json.dumps(document, allow_nan=False)
    assert document["grid"] == {"shape": list(SHAPE), "spacing_mm": [1.5, 1.5, 3.0]}
    assert document["extractors"]["pyramid"]["preprocessing"] == "pyramid/1"
    assert {"scipy", "scikit-learn"} <= set(document["versions"])
    assert (document["template"]["id"], document["template"]["gives"]) == (find_card(DEFAULT_MODEL).id, ["intensity"])
    digests = [
        f"s{i:02d} {hashlib.sha256((sets / f'synthetic/s{i:02d}/s{i:02d}_t2w.nii.gz').read_bytes()).hexdigest()}"
        for i in range(COUNT)
    ]
    files = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert document["sets"]["synthetic"]["files_sha256"] == files
    views = document["sequences"]["t2w"]["fidelity"]["pyramid"]
    assert {view: figures["n"] for view, figures in views.items()} == {
        "volume": COUNT,
        "sagittal": COUNT * SLICES,
        "coronal": COUNT * SLICES,
        "axial": COUNT * SLICES,
    }
    volume = views["volume"]
    assert (volume["d"], volume["half_n"], volume["halvings"]) == (405, COUNT // 2, 100)
    pairs = {pair["id"]: pair["real_id"] for pair in volume["nearest_real"]["pairs"]}
    assert next(iter(pairs.items())) == ("s00", "r02")
    assert volume["nearest_real"]["pairs"][0]["distance"] == pytest.approx(0, abs=1e-4)
    # One distribution: the distance of halves is about that of the floor.
    assert 0.5 < volume["fid"]["half"] / volume["fid"]["floor"] < 2
    assert 0 < document["sequences"]["t2w"]["diversity"]["synthetic"]["mean"] < 1


def test_another_seed_changes_the_drawings(sets, evaluation):
    other = evaluate(sets, seed=1, count=10).document
    assert other["n"] == 10
    first, second = (
        d["sequences"]["t2w"]["fidelity"]["pyramid"]["volume"]["kid"] for d in (other, evaluation.document)
    )
    assert first["interval"] != second["interval"]


def test_holdout_is_the_yardstick_where_given(sets, tmp_path):
    rng = np.random.default_rng(7)
    for i in range(COUNT):
        write_exam(tmp_path, f"h{i:02d}", anatomy(rng))
    document = evaluate(sets, holdout=tmp_path).document
    assert document["sequences"]["t2w"]["memorisation"]["independent"]["source"] == "12 real exams of the holdout set"
    assert document["flagged"] == ["s00", "s01", "s02"]


def test_a_holdout_that_was_trained_on_is_refused(sets, tmp_path):
    with pytest.raises(InputError, match="share the exam 'r00' and 11 more") as caught:
        evaluate(sets, holdout=sets / "real")
    assert "--holdout" in caught.value.remedy
    lines = [f"h{i:02d},{sets}/real/r{i:02d}/r{i:02d}_t2w.nii.gz" for i in range(COUNT)]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["id,t2w", *lines]), encoding="utf-8")
    with pytest.raises(InputError, match=r"share the file .*r00_t2w.* and 11 more"):
        evaluate(sets, holdout=manifest)


def copy_set(source, target, leave_out=0):
    shutil.copytree(source, target)
    for folder in sorted(target.iterdir())[:leave_out]:
        shutil.rmtree(folder)
    return target


@pytest.mark.parametrize(("shape", "spacing_mm"), [((24, 24, 16), (1.5, 1.5, 3.0)), (SHAPE, (1.0, 1.0, 3.0))])
def test_other_grids_are_refused_and_the_way_out_named(sets, tmp_path, shape, spacing_mm):
    synthetic = copy_set(sets / "synthetic", tmp_path / "s")
    shutil.rmtree(synthetic / "s04")
    write_exam(synthetic, "s04", anatomy(np.random.default_rng(0), shape), spacing_mm)
    with pytest.raises(InputError, match="'s04' of the synthetic set has the grid") as caught:
        evaluate(sets, synthetic=synthetic)
    assert "--grid" in caught.value.remedy


def test_a_set_on_another_grid_is_refused_before_any_other_volume_is_read(sets, tmp_path):
    synthetic = tmp_path / "s"
    for i in range(COUNT):
        write_exam(synthetic, f"s{i:02d}", anatomy(np.random.default_rng(i), (24, 24, 16)))
    sources = {"real": sets / "real", "synthetic": synthetic}
    with pytest.raises(InputError, match=r"'s00' of the synthetic set has the grid 24 x 24 x 16 .* 24 x 24 x 20"):
        open_sets(sources, sequences=["t2w"], template=find_card(DEFAULT_MODEL), own_grid=True)


def test_a_models_grid_takes_all(sets):
    images = open_sets({"real": sets / "real"}, sequences=["t2w"], template=find_card(DEFAULT_MODEL), own_grid=False)[
        "real"
    ]
    assert images.load(0).shape == (1, 64, 64, 32)


def test_sets_that_are_too_small_or_unequal(sets, tmp_path):
    with pytest.raises(InputError, match="has 9 exams; at least 10"):
        evaluate(sets, synthetic=copy_set(sets / "synthetic", tmp_path / "nine", 3))
    eleven = copy_set(sets / "synthetic", tmp_path / "eleven", 1)
    with pytest.raises(InputError, match="12 real and 11 synthetic") as caught:
        evaluate(sets, synthetic=eleven)
    assert "--count 11" in caught.value.remedy
    assert evaluate(sets, synthetic=eleven, count=11).document["n"] == 11
    with pytest.raises(InputError, match="15 exams of each were asked for"):
        evaluate(sets, count=15)


def test_unknown_sequence_and_ids_that_come_twice(sets, tmp_path):
    with pytest.raises(InputError, match="no sequence 'flair'"):
        evaluate(sets, sequences=["flair"])
    lines = [f"r{i:02d},{sets}/real/r{i:02d}/r{i:02d}_t2w.nii.gz" for i in [*range(COUNT), 3]]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["id,t2w", *lines]), encoding="utf-8")
    with pytest.raises(InputError, match="'r03' twice"):
        evaluate(sets, real=manifest)


def test_a_damaged_volume_is_named(sets, tmp_path):
    synthetic = copy_set(sets / "synthetic", tmp_path / "s")
    path = synthetic / "s06" / "s06_t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="s06_t2w"):
        evaluate(sets, synthetic=synthetic)


def test_slices_avoid_padding():
    stack = np.zeros((30, 8, 8), np.float32)
    stack[10:20] = np.random.default_rng(0).random((10, 8, 8))
    chosen = choose_slices(stack)
    assert len(chosen) == SLICES
    assert chosen.min() >= 11
    assert chosen.max() <= 18


def test_command_prints_one_json_line_and_names_the_copies(sets, capsys):
    arguments = ["--real", str(sets / "real"), "--synthetic", str(sets / "synthetic"), "--sequences", "t2w"]
    assert run(["evaluate", "images", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["flagged"] == ["s00", "s01", "s02"]
    assert "Suspected copies of training exams: s00, s01, s02." in err
    assert run(["evaluate", "images", *arguments, "-q"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    features = document["sequences"]["t2w"]["fidelity"]["pyramid"]["volume"]["d"]
    assert rows[0][:6] == ["t2w", "pyramid", "volume", "kid", str(COUNT), str(features)]
    assert {len(row) for row in rows} == {10}
    assert run(["evaluate", "images", *arguments, "--features", "medicalnet"]) == 2
    assert "medicalnet-resnet50" in capsys.readouterr().err


@pytest.fixture(scope="module")
def image_page(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_image_report(path, evaluation)
    return path


@pytest.fixture(scope="module")
def prediction_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    rng = np.random.default_rng(0)
    lines = [f"e{i},{rng.random():.3f},{i % 2}" for i in range(60)]
    table = folder / "<script>alert(1)</script>.csv".replace("/", "_")
    table.write_text("\n".join(["id,probability,label", *lines]), encoding="utf-8")
    document, tables = evaluate_predictions(table, repeats=100)
    write_prediction_report(folder / "report.html", document, tables)
    return folder / "report.html"


def test_report_holds_everything_and_fetches_nothing(image_page, evaluation):
    page = image_page.read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 5
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    embedded = re.search(r'id="result">(.*?)</script>', page, re.DOTALL)
    assert json.loads(embedded[1]) == json.loads(json.dumps(evaluation.document))


def test_names_from_outside_stay_text(prediction_page):
    page = prediction_page.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("name", ["image_page", "prediction_page"])
def test_report_in_a_real_browser(name, request, show_page):
    picture, tree = show_page(request.getfixturevalue(name))
    assert picture.shape == (1600, 1200)
    # Text, lines and pictures from top to bottom, not a blank or a broken page.
    bands = picture.reshape(8, 200, 1200)
    assert all(band.std() > 3 for band in bands[:5])
    assert tree.count("<svg") >= 3
    assert "</html>" in tree

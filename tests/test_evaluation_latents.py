"""The audit on latents: a copied latent is named, strangers are not, and other folders are refused."""

import json

import numpy as np
import pytest
import torch

from ccella.cli.main import run
from ccella.evaluation.latents import evaluate_latents
from ccella.imaging.errors import InputError
from ccella.pipeline.latents import read_tensors, write_tensors
from ccella.zoo.record import Record

SHAPE = (4, 6, 6, 5)


def write_run(folder, latents, name="mean", data=None):
    lines = []
    for number, latent in enumerate(latents):
        identifier = f"{folder.name}{number:02d}"
        path = folder / identifier / f"{identifier}_latent.safetensors"
        write_tensors(path, {name: torch.from_numpy(latent)})
        lines.append(json.dumps(Record(identifier, "latent", path, data or {}).to_json(relative_to=folder)))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=SHAPE)
    training = (shared + rng.normal(size=(12, *SHAPE))).astype(np.float32)
    sampled = (shared + rng.normal(size=(11, *SHAPE))).astype(np.float32)
    sampled[4] = training[7] + 0.05 * rng.normal(size=SHAPE).astype(np.float32)
    sampled[6] = training[9][:, ::-1]
    return write_run(tmp_path / "r", training), write_run(tmp_path / "s", sampled, "z")


def test_copies_are_named(runs):
    document = evaluate_latents(*runs)
    assert sorted(document["flagged"]) == ["s04", "s06"]
    nearest = {pair["id"]: (pair["training_id"], pair["mirrored_axes"]) for pair in document["memorisation"]["nearest"]}
    assert nearest["s04"] == ("r07", [])
    assert nearest["s06"] == ("r09", [1])
    assert document["latent_shape"] == list(SHAPE)


def test_a_holdout_that_was_trained_on_is_refused(runs, tmp_path):
    rng = np.random.default_rng(7)
    own = (np.random.default_rng(0).normal(size=SHAPE) + rng.normal(size=(12, *SHAPE))).astype(np.float32)
    document = evaluate_latents(*runs, holdout=write_run(tmp_path / "h", own))
    assert sorted(document["flagged"]) == ["s04", "s06"]
    with pytest.raises(InputError, match="share the exam 'r00' and 11 more") as caught:
        evaluate_latents(*runs, holdout=runs[0])
    assert "--holdout" in caught.value.remedy
    own[3] = read_tensors(next(runs[0].glob("r05/*.safetensors")))["mean"].numpy()
    with pytest.raises(InputError, match="'i03' has the file of the real exam 'r05'"):
        evaluate_latents(*runs, holdout=write_run(tmp_path / "i", own))
    own[3] += 1e-4
    with pytest.raises(InputError, match=r"'j03' shows the image of the real exam 'r05' \(correlation (1\.0|0\.9999)"):
        evaluate_latents(*runs, holdout=write_run(tmp_path / "j", own))


def test_sets_are_identified_by_their_files(runs, tmp_path):
    first = evaluate_latents(*runs)
    assert {"scipy", "scikit-learn"} <= set(first["versions"])
    assert first["sets"]["real"]["files_sha256"] != first["sets"]["synthetic"]["files_sha256"]
    path = next(runs[0].glob("r02/*.safetensors"))
    write_tensors(path, {"mean": read_tensors(path)["mean"] * 1.5})
    second = evaluate_latents(*runs)
    assert second["sets"]["real"]["files_sha256"] != first["sets"]["real"]["files_sha256"]
    assert second["sets"]["synthetic"] == first["sets"]["synthetic"]


def test_command(runs, capsys):
    arguments = ["evaluate", "latents", "--real", str(runs[0]), "--synthetic", str(runs[1])]
    assert run([*arguments, "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["flagged"]) == ["s04", "s06"]
    assert run([*arguments, "-q"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t")[:3] == ["suspected copies", "11", "2"]


def test_folders_that_cannot_be_audited(runs, tmp_path):
    with pytest.raises(InputError, match=r"has no manifest\.jsonl"):
        evaluate_latents(tmp_path, runs[1])
    few = write_run(tmp_path / "f", np.zeros((3, *SHAPE), np.float32))
    with pytest.raises(InputError, match="has 3 latents; at least 10"):
        evaluate_latents(runs[0], few)
    other = write_run(tmp_path / "o", np.ones((10, 4, 6, 6, 6), np.float32))
    with pytest.raises(InputError, match="shape"):
        evaluate_latents(runs[0], other)
    manifest = runs[1] / "manifest.jsonl"
    manifest.write_text(manifest.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(InputError, match="'s00' twice"):
        evaluate_latents(*runs)


def test_latents_of_another_autoencoder_are_refused(runs, tmp_path):
    def made_with(digest):
        return {"model": {"id": "m", "files": {"autoencoder/a.safetensors": digest, "denoiser/d.safetensors": "x"}}}

    rng = np.random.default_rng(3)
    sets = [rng.normal(size=(11, *SHAPE)).astype(np.float32) for _ in range(3)]
    one, two, other = (
        write_run(tmp_path / name, latents, data=made_with(digest))
        for name, latents, digest in zip("abc", sets, ("1" * 64, "1" * 64, "2" * 64), strict=True)
    )
    assert evaluate_latents(one, two)["flagged"] == []
    with pytest.raises(InputError, match=r"'c00' of .* and 'a00' of .* are of different autoencoders"):
        evaluate_latents(one, other)
    with pytest.raises(InputError, match="different autoencoders"):
        evaluate_latents(one, two, holdout=other)


def test_report_names_every_exam_and_fetches_nothing(runs, tmp_path, capsys, show_page):
    page = tmp_path / "report.html"
    arguments = ["evaluate", "latents", "--real", str(runs[0]), "--synthetic", str(runs[1]), "--report", str(page)]
    assert run([*arguments, "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert text.count("<img") == 4
    rows = [row.replace("</td>", "").split("<td>")[1:] for row in text.split("<tr>")]
    exams = {row[0]: row for row in rows if row and row[0] in document["ids"]}
    assert len(exams) == len(document["ids"]) == 11
    assert {name for name, row in exams.items() if row[4].startswith("yes")} == {"s04", "s06"}
    assert exams["s06"][1] == "r09"
    assert exams["s06"][3] == "yes"
    assert json.loads(text.split('id="result">')[1].split("</script>")[0]) == document
    picture, tree = show_page(page)
    assert all(band.std() > 3 for band in picture.reshape(8, 200, 1200)[:4])
    assert "</html>" in tree

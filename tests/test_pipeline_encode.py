"""Encoding exams on a tiny model of random weights, and the way back."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ccella.imaging.errors import InputError
from ccella.imaging.exams import find_exams, load_exam
from ccella.imaging.files import read_volume
from ccella.pipeline.errors import ItemsFailedError, RunFolderError
from ccella.zoo.runs import read_run

FIRST, SECOND, THIRD = "10001_1000001", "10002_1000002", "10003_1000003"


def find(stages, source):
    return find_exams(source, stages.card.image.channel_names)


@pytest.fixture(scope="module")
def encoded(stages, tiny_exams, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoded") / "latents"
    return out, stages.encode(find(stages, tiny_exams), out)


def test_posterior_of_each_sequence_is_stored(stages, encoded, tiny_exams):
    out, records = encoded
    assert [record.id for record in records] == [FIRST, SECOND, THIRD]
    tensors = load_file(out / FIRST / f"{FIRST}_latent.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {"mean": (12, 4, 4, 2), "sigma": (12, 4, 4, 2)}
    prepared = load_exam(find(stages, tiny_exams)[0], stages.card.image)
    for c in range(3):
        with torch.no_grad():
            mean, sigma = stages.autoencoder.encode_moments(torch.from_numpy(prepared.array[c])[None, None])
        torch.testing.assert_close(tensors["mean"][4 * c : 4 * c + 4], mean[0])
        torch.testing.assert_close(tensors["sigma"][4 * c : 4 * c + 4], sigma[0])


def test_sidecar_has_what_training_needs(stages, encoded, tiny_exams):
    out, _ = encoded
    data = json.loads((out / FIRST / f"{FIRST}_latent.json").read_text(encoding="utf-8"))
    assert data["prompt"] == "Lesion left peripheral zone, PIRADS 5"
    assert (data["class"], data["patient_id"], data["synthetic"]) == (1, "10001", False)
    assert data["spacing_mm"] == [2.0, 2.0, 4.0]
    assert data["channels"] == ["t2w", "hbv", "adc"]
    assert data["intensity"][2] == {"lower": 0.0, "upper": 3000.0}
    assert [parent["path"].rpartition("_")[2] for parent in data["parents"]] == [
        "t2w.nii.gz",
        "hbv.nii.gz",
        "adc.nii.gz",
    ]
    embedding = load_file(out / data["text_path"])["embedding"]
    torch.testing.assert_close(embedding, stages.text_encoder.encode([data["prompt"]])[0])
    assert json.loads((out / SECOND / f"{SECOND}_latent.json").read_text(encoding="utf-8"))["class"] == 0


def test_a_missing_report_is_the_embedding_of_the_empty_string(stages, encoded):
    out, records = encoded
    data = records[2].data
    assert data["prompt"] is None
    torch.testing.assert_close(load_file(out / data["text_path"])["embedding"], stages.text_encoder.encode([""])[0])


def test_equal_reports_are_stored_once(stages, tiny_exams, tmp_path):
    source = tmp_path / "exams"
    shutil.copytree(tiny_exams, source)
    text = (source / f"reports/{FIRST}.txt").read_text(encoding="utf-8")
    (source / f"reports/{SECOND}.txt").write_text(text, encoding="utf-8")
    records = stages.encode(find(stages, source)[:2], tmp_path / "o")
    assert records[0].data["text_path"] == records[1].data["text_path"]
    assert len(list((tmp_path / "o/text").iterdir())) == 1


def test_the_same_exams_give_the_same_bytes(stages, encoded, tiny_exams, read_files, tmp_path):
    out, _ = encoded
    stages.encode(find(stages, tiny_exams), tmp_path / "o")
    assert read_files(tmp_path / "o") == read_files(out)


def test_resume_completes_latents_and_texts(stages, encoded, tiny_exams, read_files, tmp_path):
    out, _ = encoded
    exams = find(stages, tiny_exams)
    (record, *_) = stages.encode(exams[:2], tmp_path / "o")
    (tmp_path / "o" / record.data["text_path"]).write_bytes(b"cut")
    stages.encode(exams, tmp_path / "o", resume=True)
    assert read_files(tmp_path / "o") == read_files(out)


def test_resume_refuses_a_changed_report(stages, tiny_exams, tmp_path):
    source = tmp_path / "exams"
    shutil.copytree(tiny_exams, source)
    stages.encode(find(stages, source), tmp_path / "o")
    (source / f"reports/{SECOND}.txt").write_text("Lesion after all", encoding="utf-8")
    with pytest.raises(RunFolderError, match="was made with prompt 'No suspicious"):
        stages.encode(find(stages, source), tmp_path / "o", resume=True)


def test_a_damaged_exam_fails_alone(stages, tiny_exams, tmp_path):
    source = tmp_path / "exams"
    shutil.copytree(tiny_exams, source)
    path = source / f"10002/{SECOND}_hbv.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])
    seen = []
    with pytest.raises(ItemsFailedError, match=f"1 of 3 items failed: {SECOND}: ") as caught:
        stages.encode(find(stages, source), tmp_path / "o", on_item=lambda i, e: seen.append((i, e is None)))
    assert str(path) in str(caught.value)
    assert seen == [(FIRST, True), (SECOND, False), (THIRD, True)]
    assert [record.id for record in read_run(tmp_path / "o")] == [FIRST, THIRD]
    with pytest.raises(InputError, match=str(path)) as alone:
        stages.encode(find(stages, source)[1:2], tmp_path / "p")
    assert alone.value.remedy
    shutil.copy(tiny_exams / f"10002/{SECOND}_hbv.nii.gz", path)
    stages.encode(find(stages, source), tmp_path / "o", resume=True)
    assert [record.id for record in read_run(tmp_path / "o")] == [FIRST, SECOND, THIRD]


def test_decode_puts_an_exam_back_into_its_place_and_units(stages, encoded, tiny_exams, tmp_path):
    out, _ = encoded
    records = stages.decode(out, tmp_path)
    assert [record.id for record in records] == [FIRST] * 3 + [SECOND] * 3 + [THIRD] * 3
    record = records[0]
    assert (record.data["synthetic"], record.data["patient_id"], record.data["class"]) == (False, "10001", 1)
    found, source = read_volume(record.path), read_volume(tiny_exams / f"10001/{FIRST}_t2w.nii.gz")
    # 18 voxels were cut to 16 around the middle, so both grids share it.
    np.testing.assert_allclose(found.centre_mm, source.centre_mm, atol=1e-6)
    np.testing.assert_allclose(found.affine, load_exam(find(stages, tiny_exams)[0], stages.card.image).affine)
    # Intensities span what this exam's own t2w spans, not the declared 0..1000.
    upper = np.percentile(source.data.astype(np.float64), 99.5)
    assert record.data["intensity"]["upper"] == pytest.approx(upper)
    mean = load_file(out / FIRST / f"{FIRST}_latent.safetensors")["mean"][:4]
    with torch.no_grad():
        x = stages.autoencoder.decode(mean[None])[0, 0].clamp(0, 1).numpy()
    lower = float(source.data.min())
    np.testing.assert_allclose(found.data, x * (upper - lower) + lower, rtol=1e-5, atol=1e-2)
    assert (tmp_path / "preview.png").is_file()


def test_without_a_text_encoder_reports_stay_unembedded(stages, tiny_exams, tmp_path):
    records = stages.changed(text_encoder=None).encode(find(stages, tiny_exams)[:1], tmp_path)
    assert records[0].data["text_path"] is None and records[0].data["prompt"].startswith("Lesion")
    assert not (tmp_path / "text").exists()

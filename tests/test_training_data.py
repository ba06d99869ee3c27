"""Samples for training: image channels of exams, latents of encode runs, and the split by patient."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.imaging.spec import Channel, ImageSpec
from ccella.imaging.splits import write_splits
from ccella.training.data import exam_volumes
from ccella.training.latents import UNKNOWN_CLASS, latent_items, latent_moments, latent_scale, pad_texts
from ccella.training.splits import digest_words, divide_items, split_patients

WINDOW = {"kind": "window", "lower": 0.0, "upper": 100.0}
SPEC = ImageSpec("xyz", (8, 6, 4), None, "RAS", (Channel("t2w", "a.u.", WINDOW), Channel("hbv", "a.u.", WINDOW)))


def write_exams(folder: Path, patients: Sequence[str]) -> list[Exam]:
    exams = []
    for number, patient in enumerate(patients):
        files = {}
        for place, name in enumerate(SPEC.channel_names):
            rng = np.random.default_rng([number, place])
            files[name] = folder / f"e{number}_{name}.nii.gz"
            data = rng.uniform(0, 100, SPEC.shape).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), files[name])
        exams.append(Exam(f"e{number}", patient, files))
    return exams


def test_every_channel_of_every_exam_is_a_sample(tmp_path: Path) -> None:
    exams = write_exams(tmp_path, ["a", "b", "c"])
    volumes = exam_volumes(list(reversed(exams)), SPEC, tmp_path / "cache")
    assert volumes.validation is None
    training = volumes.training
    assert (len(training), training.shape, training.ids) == (6, (8, 6, 4), ("e0", "e1", "e2"))
    assert [training.name(index) for index in range(3)] == ["e0_t2w", "e0_hbv", "e1_t2w"]
    source = np.asarray(nibabel.load(exams[1].files["hbv"]).dataobj) / 100
    image = training.image(3)
    assert (image.dtype, tuple(image.shape), training.channel(3)) == (torch.float32, (1, 8, 6, 4), "hbv")
    np.testing.assert_allclose(image[0].numpy(), source, atol=6e-4)


def test_prepared_exams_are_not_read_again(tmp_path: Path) -> None:
    exams = write_exams(tmp_path, ["a", "b"])
    lines: list[str] = []
    first = exam_volumes(exams, SPEC, tmp_path / "cache", log=lines.append)
    assert lines
    lines.clear()
    for exam in exams:
        for path in exam.files.values():
            path.write_bytes(bytes(path.stat().st_size))
    again = exam_volumes(exams, SPEC, tmp_path / "cache", log=lines.append)
    assert lines == []
    assert torch.equal(first.training.image(1), again.training.image(1))
    exams[0].files["t2w"].write_bytes(b"changed")
    with pytest.raises(InputError, match="e0_t2w"):
        exam_volumes(exams, SPEC, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_patient_is_on_both_sides(tmp_path: Path) -> None:
    exams = write_exams(tmp_path, ["a", "b", "a", "c", "b"])
    volumes = exam_volumes(exams, SPEC, tmp_path / "cache", validation_fraction=0.05)
    assert volumes.validation is not None
    patient = {exam.id: exam.patient_id for exam in exams}
    sides = [{patient[name] for name in side.ids} for side in (volumes.training, volumes.validation)]
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == {"a", "b", "c"}
    assert len(volumes.training) + len(volumes.validation) == 10
    source = np.asarray(nibabel.load(tmp_path / f"{volumes.validation.ids[0]}_t2w.nii.gz").dataobj) / 100
    np.testing.assert_allclose(volumes.validation.image(0)[0].numpy(), source, atol=6e-4)


def test_all_exams_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    exams = write_exams(tmp_path, ["a", "b", "c", "d"])
    for number in (1, 3):
        exams[number].files["hbv"].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 4 exams cannot be used\. Exam e1: .*Exam e3: "):
        exam_volumes(exams, SPEC, tmp_path / "cache")
    exams[3].files["hbv"].write_bytes(exams[0].files["hbv"].read_bytes())
    with pytest.raises(InputError, match=r"^Exam e1: .*e1_hbv"):
        exam_volumes(exams, SPEC, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


def test_no_exam_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no exams"):
        exam_volumes([], SPEC, tmp_path)


@given(st.lists(st.integers(0, 30).map(str), min_size=1), st.floats(0, 0.9))
def test_splits_are_disjoint_complete_and_stable(patients: list[str], fraction: float) -> None:
    try:
        training, validation = split_patients(patients, fraction)
    except InputError:
        assert fraction > 0
        return
    assert sorted(training + validation) == list(range(len(patients)))
    assert {patients[i] for i in training} & {patients[i] for i in validation} == set()
    assert bool(validation) == (fraction > 0 and len(set(patients)) > 1) or len(set(patients)) == 1
    # More patients of the same kind leave a patient where it was.
    if len(validation) > 0 and len({patients[i] for i in validation}) > 1:
        more, held = split_patients([*patients, *(f"new{number}" for number in range(50))], fraction)
        assert set(validation) <= set(held)
        assert set(training) <= set(more)


def test_the_fraction_is_met_over_many_patients() -> None:
    _, validation = split_patients([f"patient{number}" for number in range(4000)], 0.05)
    assert 150 < len(validation) < 250
    # The split is a published fact of a run: these places must never move.
    assert split_patients([f"p{number}" for number in range(8)], 0.5)[1] == [0, 2, 3, 4, 7]


def test_splits_decide_where_there_are_some() -> None:
    patients = ["a", "b", "b", "c", "d"]
    splits = {"a": "train", "b": "val", "c": "test", "d": "train", "gone": "train"}
    assert divide_items(patients, 0.05, splits) == ([0, 4], [1, 2])
    # As the published models were trained: on train and val together. Test stays out.
    assert divide_items(patients, 0.0, splits) == ([0, 1, 2, 4], [])
    assert divide_items(patients, 0.05) == split_patients(patients, 0.05)
    with pytest.raises(InputError, match="no split for 1 patients, the first is 'e'"):
        divide_items([*patients, "e"], 0.05, splits)
    with pytest.raises(InputError, match="in the split train"):
        divide_items(["c"], 0.05, splits)


def test_digests_tell_lists_apart() -> None:
    assert digest_words(["ab", "c"]) != digest_words(["a", "bc"])


SHAPE = (4, 2, 3, 2)


def test_a_split_that_changes_is_another_data_set(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "run")
    without = latent_items(folder, SHAPE)
    write_splits(folder / "splits.csv", {f"p{number}": "train" for number in range(4)}, {})
    first = latent_items(folder, SHAPE)
    write_splits(folder / "splits.csv", {f"p{number}": "train" if number else "test" for number in range(4)}, {})
    second = latent_items(folder, SHAPE)
    assert without.splits is None and second.splits == {"p0": "test", "p1": "train", "p2": "train", "p3": "train"}
    assert len({without.digest, first.digest, second.digest}) == 3
    assert [name for name in first.details if first.details[name] != second.details[name]] == ["e0"]


def write_latents(folder: Path, count: int = 4, **changes: Any) -> Path:
    lines = []
    (folder / "text").mkdir(parents=True)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        name = f"e{number}"
        (folder / name).mkdir()
        mean = torch.randn(SHAPE, generator=generator)
        mean[2:] = 5 * mean[2:] + 3
        save_file({"mean": mean, "sigma": torch.full(SHAPE, 0.5)}, folder / name / f"{name}_latent.safetensors")
        text = torch.randn(3 + number, 5, generator=generator)
        save_file({"embedding": text}, folder / f"text/{number}.safetensors")
        row = {"schema": "ccella.record/1", "id": name, "kind": "latent", "path": f"{name}/{name}_latent.safetensors",
               "patient_id": f"p{number}", "text_path": f"text/{number}.safetensors",
               "prompt": None if number == 1 else f"report {number}", "class": [0, 1, None, 1][number % 4],
               "spacing_mm": [1.5, 1.5, 3.0]} | changes  # fmt: skip
        lines.append(json.dumps(row) + "\n")
    (folder / "manifest.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("ram_limit_gb", [4.0, 0.0])
def test_latents_are_read_with_their_conditions(tmp_path: Path, ram_limit_gb: float) -> None:
    items = latent_items(write_latents(tmp_path / "run"), SHAPE, ram_limit_gb)
    assert items.ids == ("e0", "e1", "e2", "e3")
    assert items.patient_ids == ("p0", "p1", "p2", "p3")
    assert [items[index].class_label for index in range(4)] == [0, 1, UNKNOWN_CLASS, 1]
    assert [items[index].text_is_null for index in range(4)] == [False, True, False, False]
    assert [len(items[index].text) for index in range(4)] == [3, 4, 5, 6]
    assert items[2].spacing_mm == (1.5, 1.5, 3.0)
    null = items.null_text()
    assert null is not None
    assert torch.equal(null, items[1].text)
    for path in (tmp_path / "run").glob("*/*_latent.safetensors"):
        path.unlink()
    if ram_limit_gb:
        assert items[0].mean.shape == SHAPE
    else:
        with pytest.raises(InputError, match="cannot be read"):
            items[0]


def test_the_latent_scale_brings_samples_to_unit_deviation(tmp_path: Path) -> None:
    items = latent_items(write_latents(tmp_path / "run", 40), SHAPE)
    scale = latent_scale(latent_moments(items, range(40)), 2)
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([
        items[index].mean + items[index].sigma * torch.randn(SHAPE, generator=generator)
        for index in range(40) for _ in range(50)
    ])  # fmt: skip
    for channel in range(2):
        assert scale[channel] * samples[:, 2 * channel : 2 * channel + 2].std().item() == pytest.approx(1.0, rel=0.02)
    assert latent_scale(latent_moments(items, range(10)), 2) != scale


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient_id": None}, "patient_id = None"),
        ({"text_path": None}, "text_path = None"),
        ({"class": 3}, "class = 3"),
        ({"path": "gone.safetensors"}, "does not exist"),
        ({"kind": "volume"}, "lists no latents"),
        ({"schema": "other"}, "not a ccella record"),
    ],
)
def test_records_that_cannot_be_trained_on_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        latent_items(write_latents(tmp_path / "run", 1, **changes), SHAPE)


def test_latents_of_another_model_are_refused(tmp_path: Path) -> None:
    items = latent_items(write_latents(tmp_path / "run", 1), (4, 2, 2, 2))
    with pytest.raises(InputError, match=r"mean is \(4, 2, 3, 2\).*\(4, 2, 2, 2\)"):
        items[0]
    with pytest.raises(InputError, match=r"no manifest\.jsonl"):
        latent_items(tmp_path, SHAPE)


def test_the_digest_follows_what_is_trained_on(tmp_path: Path) -> None:
    digests = {
        latent_items(write_latents(tmp_path / "a"), SHAPE).digest,
        latent_items(write_latents(tmp_path / "b", 3), SHAPE).digest,
        latent_items(write_latents(tmp_path / "c", **{"class": 0}), SHAPE).digest,
    }
    assert len(digests) == 3
    assert latent_items(write_latents(tmp_path / "d"), SHAPE).digest in digests


def test_padding_is_masked() -> None:
    text, mask = pad_texts([torch.ones(2, 3), torch.full((4, 3), 2.0)])
    assert text.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert text[0, 2:].abs().sum() == 0

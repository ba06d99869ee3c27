"""Decoding latents that were sampled."""

import json
from dataclasses import replace

import pytest

from ccella.imaging.errors import InputError
from ccella.zoo.runs import read_run


def test_latents_decode_to_what_sample_writes(stages, prompts, five, tmp_path):
    out = five
    latents = stages.sample(prompts, tmp_path / "l", latents_only=True, batch_size=1)
    assert {record.kind for record in latents} == {"latent"}
    records = stages.decode(tmp_path / "l", tmp_path / "v")
    assert [r.path.name for r in records] == [r.path.name for r in read_run(out)]
    for record in records:
        assert record.path.read_bytes() == (out / record.path.relative_to(tmp_path / "v")).read_bytes()
        (parent,) = record.data["parents"]
        assert parent["path"].endswith(f"{record.id}_latent.safetensors")
    kept = {key: records[0].data[key] for key in ("prompt", "seed", "conditions", "sampler", "class_probability")}
    original = json.loads((out / "a/a_t2w.json").read_text(encoding="utf-8"))
    assert kept == {key: original[key] for key in kept}
    # Records as another process prints them do as well as the folder.
    again = stages.decode(iter(latents[:2]), tmp_path / "w")
    assert [r.id for r in again] == ["a"] * 3 + ["b"] * 3


def test_decode_refuses_latents_of_another_autoencoder(stages, prompts, tmp_path):
    (record,) = stages.sample(prompts[:1], tmp_path / "l", latents_only=True)
    files = {**record.data["model"]["files"], "autoencoder/autoencoder.safetensors": "f" * 64}
    other = replace(record, data={**record.data, "model": {"id": "other", "files": files}})
    with pytest.raises(InputError, match=r"made with model other, whose autoencoder/autoencoder.safetensors"):
        stages.decode([other], tmp_path / "v")
    with pytest.raises(InputError, match="is a volume, not a latent"):
        stages.decode([replace(record, kind="volume")], tmp_path / "w")

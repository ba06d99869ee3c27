"""Sampling again from a sidecar."""

import pytest

from ccella.imaging.errors import InputError
from ccella.pipeline.provenance import check_same_model
from ccella.pipeline.recipes import from_sidecar


def test_a_sidecar_samples_its_volume_again(stages, five, tmp_path):
    out = five
    for name in "ce":
        recipe = from_sidecar(out / name / f"{name}_hbv.json")
        check_same_model(recipe.model, stages.card, source="c_hbv.json")
        settings = recipe.settings(stages.card)
        stages.sample([recipe.item], tmp_path / name, steps=settings.steps)
        assert (tmp_path / f"{name}/{name}/{name}_hbv.nii.gz").read_bytes() == (
            out / f"{name}/{name}_hbv.nii.gz"
        ).read_bytes()
        assert (tmp_path / f"{name}/{name}/{name}_hbv.json").read_bytes() == (
            out / f"{name}/{name}_hbv.json"
        ).read_bytes()


def test_a_sidecar_of_other_weights_or_of_nothing_is_refused(stages, five, tmp_path):
    out = five
    recipe = from_sidecar(out / "a/a_t2w.json")
    changed = {**recipe.model, "files": {**recipe.model["files"], "denoiser/denoiser.safetensors": "0" * 64}}
    with pytest.raises(InputError, match=r"whose denoiser/denoiser.safetensors is not that"):
        check_same_model(changed, stages.card, source="a_t2w.json")
    check_same_model(changed, stages.card, source="a_t2w.json", part="autoencoder")
    with pytest.raises(InputError, match="does not exist"):
        from_sidecar(tmp_path / "none.json")
    with pytest.raises(InputError, match="is not a ccella record"):
        from_sidecar(out / "run.json")

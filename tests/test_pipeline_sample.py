"""Sampling on a tiny model of random weights."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ccella.diffusion.noise import draw_noise
from ccella.export.runtimes import choose_runtime
from ccella.imaging.errors import InputError
from ccella.pipeline.errors import ItemsFailedError
from ccella.pipeline.prompts import PromptItem
from ccella.pipeline.seeds import Shard
from ccella.zoo.errors import CardError
from ccella.zoo.runs import read_run


def test_every_item_gives_one_volume_per_channel_in_the_declared_units(prompts, five):
    out = five
    assert [(r.id, r.data["channel"]) for r in read_run(out)] == [
        (i.id, c) for i in prompts for c in ("t2w", "hbv", "adc")
    ]
    image = nibabel.load(out / "a/a_adc.nii.gz")
    assert image.shape == (16, 16, 8)
    assert image.header.get_zooms() == (2.0, 2.0, 4.0)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"synthetic"
    np.testing.assert_array_equal(image.get_sform(), image.get_qform())
    # The grid's middle lies at 0.
    np.testing.assert_allclose(image.affine @ [7.5, 7.5, 3.5, 1], [0, 0, 0, 1])
    sidecar = json.loads((out / "a/a_adc.json").read_text(encoding="utf-8"))
    assert (sidecar["unit"], sidecar["intensity"]) == ("1e-6 mm2/s", {"lower": 0.0, "upper": 3000.0})
    data = np.asarray(image.dataobj)
    assert data.min() >= 0.0 and 100.0 < data.max() <= 3000.0


def test_a_sidecar_says_where_its_volume_came_from(prompts, five):
    out = five
    sidecar = json.loads((out / "c/c_t2w.json").read_text(encoding="utf-8"))
    assert sidecar["synthetic"] is True
    assert sidecar["prompt"] == prompts[2].text
    assert sidecar["conditions"] == {"class": None, "spacing_mm": [1.0, 1.5, 3.0]}
    assert sidecar["channels"] == ["t2w", "hbv", "adc"]
    assert sidecar["sampler"] == {
        "name": "ddim", "steps": 3, "guidance_scale": 1.5, "guidance_interval": None, "eta": 0.0,
        "timesteps": [700, 450, 200],
    }  # fmt: skip
    assert 0.0 < sidecar["class_probability"] < 1.0
    assert sidecar["model"]["id"] == "tiny/random"
    assert len(sidecar["model"]["files"]["denoiser/denoiser.safetensors"]) == 64
    assert (sidecar["runtime"], sidecar["precision"], sidecar["device"]) == ("torch", "fp32", "cpu")
    assert sidecar["versions"]["torch"] == torch.__version__
    assert sidecar["licence"]["id"] == "Apache-2.0"
    assert sidecar["parents"] == []
    assert nibabel.load(out / "c/c_t2w.nii.gz").header.get_zooms() == (1.0, 1.5, 3.0)
    assert json.loads((out / "d/d_t2w.json").read_text(encoding="utf-8"))["class"] == 1
    assert json.loads((out / "e/e_t2w.json").read_text(encoding="utf-8"))["meta"] == {"site": "x"}


def test_manifest_lists_what_was_yielded(stages, prompts, five, tmp_path):
    out = five
    records = stages.sample(prompts[:2], tmp_path / "o")
    assert [record.path for record in read_run(tmp_path / "o")] == [record.path for record in records]
    assert (out / "preview.png").read_bytes().startswith(b"\x89PNG")
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["settings"]["command"] == "sample" and "started" in run


def test_the_same_seed_gives_the_same_bytes(stages, prompts, five, read_files, tmp_path):
    out = five
    stages.sample(prompts, tmp_path / "again")
    assert read_files(tmp_path / "again") == read_files(out)


def test_seed_zero_is_a_seed_and_seeds_differ(stages, prompts, tmp_path):
    stages.sample(prompts[:1], tmp_path / "s", seeds=(0, 1))
    zero, one = (np.asarray(nibabel.load(tmp_path / f"s/a_s{s}/a_s{s}_t2w.nii.gz").dataobj) for s in (0, 1))
    assert np.abs(zero - one).max() > 1.0
    assert json.loads((tmp_path / "s/a_s0/a_s0_t2w.json").read_text(encoding="utf-8"))["seed"] == 0


def test_an_item_does_not_depend_on_its_batch(stages, prompts, five, largest_difference, tmp_path):
    out = five
    for size in (2, 5):
        stages.sample(prompts, tmp_path / str(size), batch_size=size)
        assert largest_difference(out, tmp_path / str(size)) < 1e-5


def test_an_item_does_not_depend_on_its_shard(stages, prompts, five, largest_difference, tmp_path):
    out = five
    for index in (2, 3, 1):
        shard = Shard(index, 3)
        stages.sample(shard.select(prompts), tmp_path / "s", batch_size=2, run={"shard": shard})
    assert [r.path.name for r in read_run(tmp_path / "s")] == [r.path.name for r in read_run(out)]
    assert largest_difference(out, tmp_path / "s") < 1e-5
    assert (tmp_path / "s/preview-2-of-3.png").is_file()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_added_noise_belongs_to_the_item_too(stages, prompts, largest_difference, tmp_path, sampler):
    eta = 1.0 if sampler == "ddim" else None
    for size in (1, 3):
        stages.sample(prompts[:3], tmp_path / str(size), sampler=sampler, eta=eta, batch_size=size)
    assert largest_difference(tmp_path / "1", tmp_path / "3") < 1e-5


def test_one_ddim_step_equals_the_textbook(stages, prompts, tmp_path):
    """One step from pure noise lands on x0 = sqrt(a) z - sqrt(1 - a) v, whatever the samplers' code does."""
    stages.sample(prompts[:1], tmp_path / "l", seeds=(5,), timesteps=[999], guidance_scale=1.0, latents_only=True)
    found = load_file(tmp_path / "l/a/a_latent.safetensors")["z"]
    beta = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    a = float(torch.prod(1 - beta))
    noise = draw_noise(5, (12, 4, 4, 2))[None]
    text = stages.text_encoder.encode([prompts[0].text])[0][None]
    with torch.no_grad():
        v, _ = stages.denoiser(noise, torch.tensor([999]), text, None, torch.tensor([[2.0, 2.0, 4.0]]))
    x0 = a**0.5 * noise - (1 - a) ** 0.5 * v
    scale = torch.tensor([1.0, 0.8, 1.25]).repeat_interleave(4).view(1, 12, 1, 1, 1)
    torch.testing.assert_close(found[None], x0 / scale, rtol=1e-4, atol=1e-5)


def test_a_long_prompt_is_cut_and_said(stages, tmp_path):
    warnings = []
    long = PromptItem("long", "normal " * 40 + "lesion left")
    records = stages.sample([long], tmp_path / "o", warn=warnings.append)
    assert len(warnings) == 1 and "24 tokens" in warnings[0] and "long" in warnings[0]
    assert records[0].data["prompt_truncated"] is True
    assert records[0].data["prompt"] == long.text


def test_conditions_that_do_not_fit_are_named_before_anything_is_sampled(stages, prompts, tmp_path):
    with pytest.raises(InputError, match=r"spacing \[1.0, 2.0\] of b has 2 values"):
        stages.sample([prompts[0], PromptItem("b", "x", spacing_mm=(1.0, 2.0))], tmp_path / "o")
    with pytest.raises(InputError, match="class 2"):
        stages.sample([prompts[0], PromptItem("b", "x", class_label=2)], tmp_path / "p")
    assert list(read_run(tmp_path / "o")) == []


def test_a_model_of_tiles_or_without_scale_says_so(stages, prompts, tmp_path):
    card = stages.card
    tiles = replace(card, image=replace(card.image, axes="yx", shape=(16, 16), spacing_mm=(1.0, 1.0), orientation=None))
    untrained = card.with_generation(latent=replace(card.latent, scale=None))
    for other, message in ((tiles, "axes 'yx'"), (untrained, "no latent.scale")):
        with pytest.raises(CardError, match=message):
            stages.changed(card=other).sample(prompts[:1], tmp_path / message[:3])


def test_an_item_that_overflows_fails_alone(stages, prompts, tmp_path):
    # A spacing beyond what float32 holds once it is scaled: the network answers with NaN.
    items = [prompts[0], PromptItem("huge", "x", spacing_mm=(1e37, 1e37, 1e37)), prompts[1]]
    seen = []
    with pytest.raises(
        ItemsFailedError, match="1 of 3 items failed: huge: The sampler gave values that are not finite"
    ):
        stages.sample(items, tmp_path / "o", batch_size=3, on_item=lambda i, e: seen.append((i, e is None)))
    assert seen == [("a", True), ("huge", False), ("b", True)]
    assert [r.id for r in read_run(tmp_path / "o")] == ["a"] * 3 + ["b"] * 3
    assert not (tmp_path / "o/huge").exists()
    assert (tmp_path / "o/preview.png").is_file()


def test_bfloat16_samples_the_same_exam_roughly(stages, prompts, five, tmp_path):
    runtime = choose_runtime("torch", stages.card, device="cpu", precision="bf16")
    networks = {part: runtime.load(stages.card, part) for part in ("denoiser", "autoencoder")}
    half = stages.changed(runtime=runtime, **networks)
    (record, *_) = half.sample(prompts[:1], tmp_path / "o")
    assert record.data["precision"] == "bf16"
    x, y = (np.asarray(nibabel.load(path).dataobj) for path in (record.path, five / "a/a_t2w.nii.gz"))
    assert 0 < np.abs(x - y).mean() < 0.1 * y.std()

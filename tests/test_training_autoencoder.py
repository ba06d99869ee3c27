"""Training of an autoencoder, on a small card with small exams, through to a model folder."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ccella.imaging.errors import InputError
from ccella.imaging.exams import Exam
from ccella.imaging.splits import read_splits
from ccella.training.adversary import Adversary
from ccella.training.autoencoder import AutoencoderObjective, AutoencoderTask, train_autoencoder
from ccella.training.config import AutoencoderTraining, resolve_options
from ccella.training.data import exam_volumes
from ccella.training.export import initial_network
from ccella.training.losses import gradient_loss, halve, kl_divergence, psnr_db, pyramid_loss
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card

SHAPE = (16, 8, 8)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    document: dict[str, Any] = copy.deepcopy(dict(find_card("ccella-pp").document))
    document["image"] |= {"shape": list(SHAPE), "spacing_mm": [1.0, 1.0, 1.0]}
    for part in document["parts"].values():
        part.pop("files", None)
    document["latent"].pop("scale", None)
    document["parts"]["autoencoder"]["config"] |= {
        "channels": [8, 8, 16], "num_res_blocks": [1, 1, 1], "norm_num_groups": 8,
    }  # fmt: skip
    return parse_card(document, tmp_path_factory.mktemp("card") / "card.toml")


def write_exams(folder: Path, count: int) -> list[Exam]:
    exams = []
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, size) for size in SHAPE], indexing="ij"))
    for number in range(count):
        rng = np.random.default_rng(number)
        files = {}
        for name in ("t2w", "hbv", "adc"):
            data = 1000 + 900 * np.sin(np.einsum("a,axyz->xyz", rng.uniform(-6, 6, 3), grid) + rng.uniform(0, 6))
            files[name] = folder / f"e{number}_{name}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.eye(4)), files[name])
        exams.append(Exam(f"e{number}", f"p{number}", files))
    return exams


def options(**changes: Any) -> AutoencoderTraining:
    base = {"steps": 4, "batch_size": 4, "validation_fraction": 0.3, "device": "cpu", "log_every": 1}
    return resolve_options(AutoencoderTraining, "autoencoder", {}, base | changes)


def test_training_ends_in_a_model_folder_that_loads(card: Card, tmp_path: Path) -> None:
    exams = write_exams(tmp_path, 6)
    lines: list[str] = []
    chosen = options(steps=30, channels_last=True)
    progress = train_autoencoder(card, exams, tmp_path / "out", chosen, split="none", log=lines.append)
    written = read_card(tmp_path / "out" / "card.toml")
    psnr = written.measured["autoencoder_psnr_db"]
    assert set(psnr) == {"t2w", "hbv", "adc"}
    assert psnr["adc"] == pytest.approx(progress.scalars["psnr_db_adc"], abs=0.01)
    provenance = written.provenance["autoencoder"]
    assert (provenance["steps"], provenance["options"]["steps"]) == (30, 30)
    network: Any = load_part(written, "autoencoder")
    # The figures on the card are those of the stored weights.
    volumes = exam_volumes(exams, card.image, tmp_path / "out/training/cache", validation_fraction=0.3)
    assert volumes.validation is not None
    assert len(volumes.training.ids) == provenance["data"]["exams"]
    values = []
    for index in range(len(volumes.validation)):
        if volumes.validation.channel(index) == "adc":
            x = volumes.validation.image(index)[None]
            with torch.no_grad():
                y = network.decode(network.encode_moments(x)[0]).clamp(0, 1)
            values.append(-10 * float((x - y).square().mean().log10()))
    assert psnr["adc"] == pytest.approx(np.mean(values), abs=0.02)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "loss " in line]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_fine_tuning_records_the_weights_it_began_with(card: Card, tmp_path: Path) -> None:
    exams = write_exams(tmp_path, 4)
    train_autoencoder(card, exams, tmp_path / "first", options(steps=2), split="none")
    first = read_card(tmp_path / "first/card.toml")
    train_autoencoder(first, exams, tmp_path / "second", options(steps=1, initial="card"), split="none")
    second = read_card(tmp_path / "second/card.toml")
    initial = second.provenance["autoencoder"]["initial"]
    assert initial["files"] == {"autoencoder/autoencoder.safetensors": first.part("autoencoder").files[0].sha256}
    assert initial["provenance"] == first.provenance["autoencoder"]
    assert (initial["provenance"]["steps"], second.provenance["autoencoder"]["steps"]) == (2, 1)
    # From scratch again: nothing of the runs before is left in the record.
    train_autoencoder(second, exams, tmp_path / "third", options(steps=1), split="none")
    assert "initial" not in read_card(tmp_path / "third/card.toml").provenance["autoencoder"]


def test_patients_of_the_test_split_are_not_even_read(card: Card, tmp_path: Path) -> None:
    exams = [replace(exam, meta={"split": name}) for exam, name in zip(
        write_exams(tmp_path, 5), ("train", "test", "train", "val", "training"), strict=True)]  # fmt: skip
    exams[1].files["t2w"].write_bytes(b"no image")
    lines: list[str] = []
    train_autoencoder(card, exams, tmp_path / "out", options(steps=2), log=lines.append)
    table = tmp_path / "out/training/autoencoder/splits.csv"
    assert read_splits(table) == {"p0": "train", "p1": "test", "p2": "train", "p3": "val", "p4": "train"}
    assert any("Patients by split: train 3, val 1, test 1" in line for line in lines)
    assert "Exams: 3 to train on, 1 to validate on, 1 untouched." in lines
    written = read_card(tmp_path / "out/card.toml")
    assert written.provenance["autoencoder"]["data"]["exams"] == 3
    assert written.measured["autoencoder_psnr_db"]
    # Going on keeps to the splits; a patient who changes sides is refused, also as other data.
    train_autoencoder(card, exams, tmp_path / "out", options(steps=2), resume=True)
    moved = [replace(exams[0], meta={"split": "test"}), *exams[1:]]
    with pytest.raises(InputError, match="'p0' is in two splits, train"):
        train_autoencoder(card, moved, tmp_path / "out", options(steps=2), resume=True)
    table.unlink()
    with pytest.raises(InputError, match=r"^Exam e1: .*e1_t2w"):
        train_autoencoder(card, exams, tmp_path / "out", options(steps=2), resume=True)
    exams[1].files["t2w"].write_bytes(exams[0].files["t2w"].read_bytes())
    with pytest.raises(InputError, match="another data"):
        train_autoencoder(card, exams, tmp_path / "out", options(steps=2), resume=True)


def test_a_run_begun_without_splits_stays_without(card: Card, tmp_path: Path) -> None:
    exams = write_exams(tmp_path, 4)
    train_autoencoder(card, exams, tmp_path / "out", options(steps=2), split="none")
    progress = train_autoencoder(card, exams, tmp_path / "out", options(steps=2), resume=True)
    assert progress.changes == ()
    assert not (tmp_path / "out/training/autoencoder/splits.csv").exists()


def test_fine_tuning_starts_from_the_cards_weights(card: Card, tmp_path: Path) -> None:
    exams = write_exams(tmp_path, 3)
    train_autoencoder(card, exams, tmp_path / "first", options(steps=2))
    first = read_card(tmp_path / "first" / "card.toml")
    network = initial_network(first, "autoencoder", options(initial="card"))
    stored = load_part(first, "autoencoder").state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    fresh = [initial_network(card, "autoencoder", options(seed=seed)).state_dict() for seed in (0, 0, 1)]
    name = next(name for name in fresh[0] if name.endswith("conv.weight"))
    assert torch.equal(fresh[0][name], fresh[1][name])
    assert not torch.equal(fresh[0][name], fresh[2][name])


def make_task(card: Card, folder: Path, **changes: Any) -> AutoencoderTask:
    chosen = options(**changes)
    volumes = exam_volumes(write_exams(folder, 2), card.image, folder / "cache")
    return AutoencoderTask(card, volumes, initial_network(card, "autoencoder", chosen), chosen)


def test_draws_are_cut_and_flipped(card: Card, tmp_path: Path) -> None:
    task = make_task(card, tmp_path, patch_shape=[8, 8, 4], flip_axes=["x", "z"])
    whole = task.training.image(4)
    seen = set()
    for seed in range(40):
        drawn = task.draw(4, torch.Generator().manual_seed(seed))
        assert (drawn["x"].shape, drawn["eps"].shape) == ((1, 8, 8, 4), (4, 2, 2, 1))
        matches = [
            (flip, x, z)
            for flip in ((), (1,), (3,), (1, 3)) for x in range(9) for z in range(5)
            if torch.equal(whole.flip(flip)[:, x : x + 8, :, z : z + 4], drawn["x"])
        ]  # fmt: skip
        assert len(matches) == 1
        seen.add(matches[0])
    assert {flip for flip, _, _ in seen} == {(), (1,), (3,), (1, 3)}
    assert {x for _, x, _ in seen} >= {0, 8}
    same = [task.draw(4, torch.Generator().manual_seed(3))["x"] for _ in range(2)]
    assert torch.equal(same[0], same[1])


def test_patches_and_flips_that_do_not_fit_are_refused(card: Card, tmp_path: Path) -> None:
    for shape in ([8, 8], [8, 8, 6], [32, 8, 8]):
        with pytest.raises(InputError, match="patch_shape"):
            make_task(card, tmp_path, patch_shape=shape)
    with pytest.raises(InputError, match="'y2'"):
        make_task(card, tmp_path, flip_axes=["y2"])


def test_the_loss_is_the_weighted_sum_of_its_terms(card: Card, tmp_path: Path) -> None:
    task = make_task(card, tmp_path, kl_weight=0.25, pyramid_weight=2.0, gradient_weight=3.0)
    batch = task.collate([task.draw(index, torch.Generator().manual_seed(index)) for index in range(2)])
    loss, terms = task.objective(batch, 0)
    wanted = terms["l1"] + 2.0 * terms["pyramid"] + 3.0 * terms["gradient"] + 0.25 * terms["kl"]
    torch.testing.assert_close(loss, wanted)


def test_the_discriminator_and_the_autoencoder_learn_apart(card: Card, tmp_path: Path) -> None:
    task = make_task(card, tmp_path, adversarial_weight=0.5, discriminator_layers=1, adversarial_start=3)
    objective = task.objective
    assert isinstance(objective, AutoencoderObjective)
    assert objective.adversary is not None
    batch = task.collate([task.draw(0, torch.Generator().manual_seed(0))])
    assert "verdict" not in objective(batch, 2)[1]
    _, terms = objective(batch, 3)
    terms["verdict"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in objective.adversary.parameters())
    assert any(parameter.grad is not None for parameter in objective.autoencoder.parameters())
    objective.zero_grad(set_to_none=True)
    terms["discriminator"].backward()
    assert any(parameter.grad is not None for parameter in objective.adversary.parameters())
    assert all(parameter.grad is None for parameter in objective.autoencoder.parameters())


def test_a_run_with_a_discriminator_exports_the_autoencoder_alone(card: Card, tmp_path: Path) -> None:
    changes = {"adversarial_weight": 0.1, "discriminator_layers": 1, "steps": 2}
    train_autoencoder(card, write_exams(tmp_path, 3), tmp_path / "out", options(**changes))
    assert isinstance(load_part(read_card(tmp_path / "out/card.toml"), "autoencoder"), nn.Module)


def test_a_discriminator_exists_for_images_too() -> None:
    adversary = Adversary(2, 8, 1)
    assert adversary.loss(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)).ndim == 0


def test_loss_terms_against_plain_arithmetic() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 4, 6, 1, generator=generator), torch.rand(2, 1, 4, 6, 1, generator=generator)
    small = x.reshape(2, 1, 2, 2, 3, 2, 1).mean(dim=(3, 5))
    torch.testing.assert_close(halve(x), small)
    assert float(pyramid_loss(x, y, 0)) == 0
    torch.testing.assert_close(pyramid_loss(x, y, 1), (halve(x) - halve(y)).abs().mean())
    one, two = functional.l1_loss(halve(x), halve(y)), functional.l1_loss(halve(halve(x)), halve(halve(y)))
    torch.testing.assert_close(pyramid_loss(x, y, 2), (one + two) / 2)
    difference = x - y
    along = [(difference[:, :, 1:] - difference[:, :, :-1]).abs().mean(),
             (difference[:, :, :, 1:] - difference[:, :, :, :-1]).abs().mean()]  # fmt: skip
    torch.testing.assert_close(gradient_loss(x, y), (along[0] + along[1]) / 2)
    assert float(gradient_loss(x, x + 0.5)) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(psnr_db(torch.full((2, 3), 0.1), torch.zeros(2, 3)), torch.full((2,), 20.0))


def test_the_divergence_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, sigma = torch.randn(3, 4, generator=generator), torch.rand(3, 4, generator=generator) + 0.1
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, sigma), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(mean, sigma), wanted)
    assert float(kl_divergence(torch.zeros(2), torch.ones(2))) == 0

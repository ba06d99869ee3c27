"""What weighs how much in a denoiser's loss: latent channels by what they do to the image, places by masks."""

import copy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ccella.diffusion.losses import denoising_loss
from ccella.imaging.errors import InputError
from ccella.training.latents import LatentItem, LatentMoments, latent_scale
from ccella.training.regions import RegionMaps
from ccella.training.spectrum import image_response
from ccella.zoo.card import Card, parse_card
from ccella.zoo.errors import CardError
from ccella.zoo.families.ccella.cosine import cosine_basis
from ccella.zoo.forward import preconditioner
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card


@pytest.fixture(scope="module")
def card() -> Card:
    return find_card("ccella-pp/phantom")


def write_mask(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(data.astype(np.uint8), affine), path)


def test_a_mask_lands_where_its_voxels_lie(card: Card, tmp_path: Path) -> None:
    spacing = card.image.spacing_mm
    assert spacing is not None
    # Stored with x and y reversed, as DICOM would: the map must follow the affine, not the array.
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    data = np.zeros(card.image.shape)
    data[4:8, 8:12, 16:20] = 1
    write_mask(tmp_path / "a_lesions.nii.gz", data, affine)
    region = RegionMaps(tmp_path, ["a"], card.image, 4)["a"]
    assert region.shape == (1, *(size // 4 for size in card.image.shape))
    x, y, z = (int(v) for v in np.argwhere(region[0].numpy() == 1.0)[0])
    assert (x, y, z) == (region.shape[1] - 2, region.shape[2] - 3, 4)
    assert float(region.sum()) == 1.0


def test_a_large_mask_weighs_as_much_as_one_latent_voxel(card: Card, tmp_path: Path) -> None:
    affine = np.diag([*(card.image.spacing_mm or ()), 1.0])
    sums = {}
    for name, edge in (("none", 0), ("small", 2), ("large", 16)):
        data = np.zeros(card.image.shape)
        data[:edge, :edge, :edge] = 1
        write_mask(tmp_path / f"{name}.nii.gz", data, affine)
        sums[name] = float(RegionMaps(tmp_path, [name], card.image, 4)[name].sum())
    assert sums == pytest.approx({"none": 0.0, "small": 8 / 64, "large": 1.0})


def test_places_where_a_lesion_could_have_been_weigh_as_much(card: Card, tmp_path: Path) -> None:
    affine = np.diag([*(card.image.spacing_mm or ()), 1.0])
    corner, empty = np.zeros(card.image.shape), np.zeros(card.image.shape)
    corner[:4, :4, 4:8] = 1
    for name, data in {"healthy": empty, "ill": corner}.items():
        write_mask(tmp_path / f"{name}.nii.gz", data, affine)
    plain = RegionMaps(tmp_path, ["healthy", "ill"], card.image, 4)
    assert torch.equal(plain["healthy"], plain["ill"])
    size = plain["ill"].shape
    mirrored = RegionMaps(tmp_path, ["ill"], card.image, 4, mirror="xz")["ill"]
    assert {tuple(place) for place in mirrored[0].nonzero().tolist()} == {
        (x, 0, z) for x in (0, size[1] - 1) for z in (1, size[3] - 2)
    }
    assert mirrored.max() == 1.0
    for wrong in ("w", "xx", "left"):
        with pytest.raises(InputError, match="Option region_mirror"):
            RegionMaps(tmp_path, ["ill"], card.image, 4, mirror=wrong)


def test_a_missing_mask_is_named(card: Card, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no mask of 'b' \(1 of 1 exams lack one\)"):
        RegionMaps(tmp_path, ["b"], card.image, 4)


def test_the_weight_multiplies_the_error_of_each_place() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 6, 4, 4, 2, generator=generator)
    weight = torch.rand(3, 1, 4, 4, 2, generator=generator)
    for kind, error in (("mse", (a - b).square()), ("l1", (a - b).abs())):
        found = denoising_loss(a, b, kind=kind, groups=3, weight=weight).item
        assert found.numpy() == pytest.approx((error * weight).flatten(1).mean(1).numpy(), rel=1e-5)


class _Items:
    """Latents of one exam."""

    def __init__(self, mean: torch.Tensor) -> None:
        self._item = LatentItem("a", "a", mean, torch.zeros_like(mean), torch.zeros(1, 1), False, 0, (1.0, 1.0, 1.0))

    def __getitem__(self, index: int) -> LatentItem:
        return self._item


def test_coarse_channels_do_more_to_the_image(card: Card) -> None:
    autoencoder = load_part(card, "autoencoder")
    generator = torch.Generator().manual_seed(1)
    # Mid-grey images, so that nothing is clipped at black or white.
    mean = 0.2 * torch.randn(card.latent_shape, generator=generator)
    mean[:: card.latent.channels_per_image_channel] += 3.0
    variance = torch.full((card.latent.channels,), 0.04, dtype=torch.float64)
    moments = LatentMoments(torch.zeros_like(variance), variance)
    items: Any = _Items(mean)
    response = image_response(card, autoencoder, items, [0], moments, torch.device("cpu"))
    each = card.latent.channels_per_image_channel
    by_sequence = response.view(-1, each)
    # The codec that the bundled autoencoder started as has the response 1 / gain, and gains from 6 to 71.
    _, gain = cosine_basis(each, (1.0, 1.0, 0.5))
    relative = by_sequence * gain
    assert (relative / relative.mean()).numpy() == pytest.approx(1.0, abs=0.6)


def test_the_scale_by_response_gives_each_sequence_unit_variance() -> None:
    generator = torch.Generator().manual_seed(2)
    sizes = torch.tensor([3.0, 1.0, 0.5, 2.0, 0.1, 4.0], dtype=torch.float64)
    offsets = torch.tensor([1.0, 0.0, 0.0, -2.0, 0.0, 0.0], dtype=torch.float64)
    response = torch.tensor([4.0, 2.0, 1.0, 5.0, 2.0, 1.0])
    scale = torch.tensor(latent_scale(LatentMoments(offsets, sizes**2), 3, response), dtype=torch.float64)
    assert (scale / scale[0])[:3].numpy() == pytest.approx([1.0, 0.5, 0.25])
    drawn = offsets + sizes * torch.randn(200_000, 6, generator=generator, dtype=torch.float64)
    scaled = drawn * scale
    assert scaled[:, :3].std().item() == pytest.approx(1.0, rel=0.01)
    assert scaled[:, 3:].std().item() == pytest.approx(1.0, rel=0.01)


def test_a_preconditioned_card_needs_moments_and_a_clean_prediction(card: Card, tmp_path: Path) -> None:
    document = copy.deepcopy(dict(card.document))
    document["schedule"] |= {"prediction": "sample", "preconditioning": "edm"}
    document["latent"].pop("mean", None)
    with pytest.raises(CardError, match=r"no latent\.mean"):
        preconditioner(parse_card(document, tmp_path / "card.toml"))
    document["schedule"]["prediction"] = "epsilon"
    with pytest.raises(CardError, match="preconditioning"):
        parse_card(document, tmp_path / "card.toml")
    document["schedule"]["prediction"] = "sample"
    document["latent"]["std"] = [1.0]
    with pytest.raises(CardError, match="std"):
        parse_card(document, tmp_path / "card.toml")

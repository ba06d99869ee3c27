"""The classifier family: the published network, and cards that do not fit."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from ccella.zoo.card import Card, Part, parse_card
from ccella.zoo.errors import CardError
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

FAMILY = load_family("classifier")


def changed(card: Card, **config: object) -> Part:
    part = card.part("classifier")
    return Part(part.name, part.architecture, {**part.config, **config}, (), "")


def test_the_published_card_is_efficientnet_b0() -> None:
    """4.69 million parameters (the paper's network), and the names and shapes that MONAI's own B0 has."""
    from monai.networks.nets.efficientnet import EfficientNetBN

    card = find_card("classifier")
    with torch.device("meta"):
        network = FAMILY.build(card.part("classifier"))
        published = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=3, num_classes=2)
    assert sum(value.numel() for value in network.parameters()) == 4_692_670
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert shapes == {name: value.shape for name, value in published.state_dict().items()}
    # What has no weights: strides, padding, drop rates.
    assert str(network).split("\n")[1:] == str(published).split("\n")[1:]


def test_the_published_card_says_what_the_paper_says() -> None:
    card = find_card("classifier")
    options = card.training["classifier"]
    assert (card.image.shape, card.image.spacing_mm) == ((256, 256, 32), (0.5, 0.5, 3.0))
    assert (options["steps"], options["batch_size"], options["learning_rate"]) == (16000, 32, 1e-4)
    assert (options["lr_schedule"], options["lr_power"]) == ("polynomial", 2.0)
    assert card.training["classifier_finetuning"]["learning_rate"] == 1e-5
    # Every 5 epochs of the paper's 3324 exams in batches of 32, to the nearest step.
    assert options["validate_every"] == round(5 * 3324 / 32)


@pytest.mark.parametrize("name", ["classifier", "classifier/phantom"])
def test_the_cards_fit_their_image(name: str) -> None:
    card = find_card(name)
    FAMILY.check_grid(card.part("classifier"), card.image)


def test_a_classifier_makes_no_images() -> None:
    with pytest.raises(CardError, match="classifier/phantom makes no images"):
        _ = find_card("classifier/phantom").latent


@pytest.mark.parametrize("config", [{"in_channels": 1}, {"spatial_dims": 2}])
def test_a_network_that_does_not_fit_its_image(config: dict[str, int]) -> None:
    card = find_card("classifier/phantom")
    with pytest.raises(CardError):
        FAMILY.check_grid(changed(card, **config), card.image)


def test_a_grid_that_cannot_be_halved_five_times() -> None:
    document = copy.deepcopy(dict(find_card("classifier/phantom").document))
    document["image"]["shape"] = [64, 64, 24]
    card = parse_card(document, find_card("classifier").directory / "card.toml")
    with pytest.raises(CardError, match="divides every axis by 32"):
        FAMILY.check_grid(card.part("classifier"), card.image)


def test_a_zero_head_starts_undecided() -> None:
    x = torch.randn(2, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    for zero in (True, False):
        network = FAMILY.build(changed(find_card("classifier/phantom"), zero_head=zero, width=0.1, depth=0.1))
        with torch.no_grad():
            spread = float(network.train()(x).abs().max())
        assert (spread == 0.0) is zero


@pytest.mark.parametrize("config", [{"widht": 1.0}, {"width": "1"}, {"dropout": -0.1}, {"classes": True}])
def test_configs_that_mean_nothing(config: dict[str, object]) -> None:
    with pytest.raises(CardError):
        FAMILY.build(changed(find_card("classifier/phantom"), **config))


def test_the_phantoms_classifier_sees_the_lesion_that_the_published_intensities_clip(tmp_path: Path) -> None:
    """Lesion against gland on the high-b image, in units of the image's deviation, before and after the clip."""
    from ccella.imaging.files import read_volume
    from ccella.imaging.phantom.dataset import write_phantoms
    from ccella.imaging.standardisation import parse_standard_score

    (exam,) = write_phantoms(tmp_path, 1, 7, prevalence=1.0, workers=1)
    hbv = read_volume(Path(exam["files"]["hbv"])).data.astype(float)
    lesion = read_volume(Path(exam["masks"]["lesions"])).data > 0
    gland = np.isin(read_volume(Path(exam["masks"]["anatomy"])).data, (1, 2, 3, 4)) & ~lesion
    contrast = {}
    for name in ("classifier", "classifier/phantom"):
        (channel,) = (each for each in find_card(name).image.channels if each.name == "hbv")
        values = parse_standard_score(channel.intensity).apply(hbv)
        contrast[name] = np.median(values[lesion]) - np.median(values[gland])
    plain = (np.median(hbv[lesion]) - np.median(hbv[gland])) / hbv.std()
    assert contrast["classifier/phantom"] > 0.8 * plain
    assert contrast["classifier"] < 0.3 * plain

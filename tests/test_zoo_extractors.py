"""Extractors have the published architectures, read their files strictly, and see what changes in an image."""

import hashlib

import numpy as np
import pytest
import torch

from ccella.metrics.kernel import kernel_distance, subset_distances
from ccella.zoo.errors import CardError, UnknownModelError, WeightsMissingError
from ccella.zoo.extractors import Extractor, find_extractor, list_extractors, load_extractor
from ccella.zoo.extractors.loading import read_weights
from ccella.zoo.extractors.networks import (
    ARCHITECTURES,
    centre_bgr,
    medicalnet,
    radimagenet_keras,
    radimagenet_torch,
    symmetric_bgr,
    zscore_volume,
)
from ccella.zoo.extractors.pyramid import pyramid_features
from ccella.zoo.lock import extend_lock


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_medicalnet_has_the_published_size_names_and_stride():
    network = medicalnet()
    # The published trunk: 46,155,072 parameters in a checkpoint of 318 tensors.
    assert parameters(network) == 46_155_072
    state = network.state_dict()
    assert len(state) == 318
    assert state["conv1.weight"].shape == (64, 1, 7, 7, 7)
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1, 1)
    assert state["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1, 1)
    assert (network.layer3[0].conv2.dilation, network.layer4[2].conv2.dilation) == ((2, 2, 2), (4, 4, 4))
    with torch.no_grad():
        # Dilation instead of stride: an eighth along each axis, not a thirty-second.
        assert network.eval().feature_map(torch.zeros(1, 1, 16, 32, 32)).shape == (1, 2048, 2, 4, 4)


def test_medicalnet_differs_from_the_strided_network_on_the_same_weights():
    from monai.networks.nets.resnet import ResNetFeatures

    torch.manual_seed(0)
    theirs = ResNetFeatures("resnet50", pretrained=False).eval()
    ours = medicalnet()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        strided, dilated = theirs(x)[-1], ours.eval().feature_map(x)
        # Up to the second layer the two are one network.
        h = ours.layer2(ours.layer1(ours.maxpool(torch.relu(ours.bn1(ours.conv1(x))))))
        assert torch.allclose(h, theirs(x)[2], atol=1e-5)
    assert (strided.shape[2:], dilated.shape[2:]) == ((1, 1, 1), (2, 4, 4))


def test_radimagenet_has_the_published_sizes_and_strides():
    keras, release = radimagenet_keras(), radimagenet_torch()
    # Keras' ResNet50 without top: 23,587,712, of which 53,120 are running statistics. torchvision's trunk: 23,508,032.
    assert parameters(keras) == 23_587_712 - 53_120
    assert parameters(release) == 23_508_032
    assert (keras.layer2[0].conv1.stride, keras.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (release.layer2[0].conv1.stride, release.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert keras.bn1.eps == 1.001e-5
    assert "layer1.0.conv1.bias" in keras.state_dict()
    with torch.no_grad():
        assert keras.eval().feature_map(torch.zeros(1, 3, 224, 224)).shape == (1, 2048, 7, 7)


def test_preprocessing_by_hand():
    slices = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    assert centre_bgr(slices)[0, :, 0, 1].tolist() == pytest.approx([0.594, 0.544, 0.515])
    # (255 v - 127.5) * 2 / 255
    assert symmetric_bgr(slices)[0, :, 1, 1].tolist() == pytest.approx([-0.5] * 3)
    volume = torch.rand(2, 4, 5, 6) * 7 + 3
    scored = zscore_volume(volume)
    assert scored.shape == (2, 1, 4, 5, 6)
    assert scored.flatten(1).mean(1).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert scored.flatten(1).std(1, correction=0).tolist() == pytest.approx([1, 1], rel=1e-5)
    assert torch.isfinite(zscore_volume(torch.ones(1, 4, 4, 4))).all()


def test_names_of_the_torch_release():
    rename = ARCHITECTURES["radimagenet_resnet50_torch"][1]
    assert rename("backbone.0.weight") == "conv1.weight"
    assert rename("backbone.5.0.downsample.1.running_mean") == "layer2.0.downsample.1.running_mean"
    assert rename("fc.weight").startswith("fc.")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub cache with a MedicalNet checkpoint of random weights, as it is published: a pickle with a wrapper."""
    torch.manual_seed(1)
    network = medicalnet()
    folder = tmp_path / "hub" / "models--TencentMedicalNet--MedicalNet-Resnet50"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, snapshot / "resnet_50_23dataset.pth")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return network.eval(), snapshot / "resnet_50_23dataset.pth", tmp_path


def test_a_published_pickle_is_converted_once_and_gives_the_networks_features(hub):
    network, path, scratch = hub
    extractor = load_extractor(find_extractor("medicalnet-resnet50"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.describe() == {
        "extractor": "medicalnet-resnet50",
        "sha256": digest,
        "revision": "unpinned",
        "preprocessing": "zscore-volume/1",
    }
    assert [file.name for file in (scratch / "cache" / "ccella").iterdir()] == [f"{digest}.safetensors"]
    volume = np.random.default_rng(0).random((1, 16, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = network(zscore_volume(torch.from_numpy(volume))).numpy()
    features = extractor.extract(volume)
    assert features.dtype == np.float64
    assert features.shape == (1, 2048)
    assert features == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_result_names_the_commit_that_the_lock_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    card = find_extractor("medicalnet-resnet50")
    extractor = Extractor(card, "0" * 64, lambda images: images)
    assert extractor.describe()["revision"] == "unpinned"
    extend_lock(revisions={card.files[0].repo: "b" * 40})
    assert extractor.describe()["revision"] == "b" * 40


def test_weights_of_another_network_are_refused(hub):
    _, path, _ = hub
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CardError, match="does not fit medicalnet-resnet50"):
        load_extractor(find_extractor("medicalnet-resnet50"))


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_with_code_is_refused_unexecuted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.save({"state_dict": Code()}, tmp_path / "weights.pth")
    with pytest.raises(CardError, match="cannot be read as tensors alone"):
        read_weights(tmp_path / "weights.pth", "0" * 64)
    assert "executed" not in capsys.readouterr().out


def test_weights_that_are_not_here_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsMissingError, match=r"ResNet50\.pt") as caught:
        load_extractor(find_extractor("radimagenet-resnet50-torch"))
    assert "Lab-Rasool/RadImageNet" in str(caught.value)
    assert caught.value.remedy.endswith("ccella zoo pull radimagenet-resnet50-torch")


def test_cards_are_whole_and_the_nearest_name_is_offered():
    assert [card.id for card in list_extractors()] == [
        "medicalnet-resnet50",
        "pyramid",
        "radimagenet-resnet50-keras",
        "radimagenet-resnet50-torch",
    ]
    assert all(card.architecture == "pyramid" or card.architecture in ARCHITECTURES for card in list_extractors())
    with pytest.raises(UnknownModelError) as caught:
        find_extractor("medicalnet")
    assert "medicalnet-resnet50" in caught.value.remedy


def scenes(seed, n=40, shape=(24, 24, 16), shift=0.0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    centres = rng.normal(0, 0.05, (n, 3)) + np.array([shift, 0, 0])
    radius = ((grid[None] - centres[:, :, None, None, None]) ** 2).sum(1)
    return (np.exp(-4 * radius) + 0.1 * rng.random((n, *shape))).clip(0, 1).astype(np.float32)


def test_pyramid_does_not_depend_on_the_batch():
    images = scenes(0, n=3)
    together = pyramid_features(images)
    assert together.shape == (3, 405)
    alone = np.concatenate([pyramid_features(images[i : i + 1]) for i in range(3)])
    assert together == pytest.approx(alone, rel=1e-6, abs=1e-9)
    assert pyramid_features(images[:, :, :, 0]).shape == (3, 108)


def test_pyramid_of_a_constant_image():
    features = pyramid_features(np.full((1, 12, 12, 12), 0.25))
    levels = features.reshape(3, 5, 27)
    assert levels[:, 0] == pytest.approx(0.25)
    assert levels[:, 1:] == pytest.approx(0.2 * np.log(1e-3))


def test_pyramid_distance_grows_with_what_is_wrong():
    real, other = pyramid_features(scenes(0)), scenes(1)
    noise = np.random.default_rng(3).normal(size=other.shape)

    def distance(images):
        return kernel_distance(real, pyramid_features(images))

    spread = subset_distances(real, pyramid_features(other)).std()
    clean, noisy, noisier = (distance((other + s * noise).clip(0, 1)) for s in (0, 0.05, 0.2))
    assert abs(clean) < 3 * spread
    assert clean < noisy < noisier
    assert distance(scenes(1, shift=0.3)) > clean + 5 * spread
    blurred = (other + np.roll(other, 1, 1) + np.roll(other, 1, 2) + np.roll(other, 1, 3)) / 4
    assert distance(blurred) > clean + 5 * spread


def test_pyramid_refuses_what_is_too_small():
    with pytest.raises(ValueError, match="12"):
        pyramid_features(np.zeros((1, 8, 12, 12)))

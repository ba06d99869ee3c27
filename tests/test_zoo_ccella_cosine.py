import numpy as np
import pytest
import torch
from scipy import fft, ndimage

from ccella.zoo.errors import CardError
from ccella.zoo.families.ccella.autoencoder import build_autoencoder
from ccella.zoo.families.ccella.cosine import cosine_basis

SMALL = {
    "channels": [16, 32, 64], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4, "latent_channels": 16,
    "transposed_upsampling": True, "start": "cosine", "cosine_axis_weights": [1.0, 1.0, 0.5],
}  # fmt: skip


def smooth_image(seed):
    """A smooth random image in 0..1, [32, 32, 16]."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(32, 32, 16)), 2.0)
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


def codec(image, frequencies):
    """Reconstruction by SciPy's cosine transform of 4x4x4 blocks, only some coefficients kept."""
    blocks = image.reshape(8, 4, 8, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5)
    coefficients = fft.dctn(blocks, axes=(3, 4, 5), norm="ortho")
    mask = np.zeros((4, 4, 4))
    for frequency in frequencies:
        mask[frequency] = 1.0
    kept = fft.idctn(coefficients * mask, axes=(3, 4, 5), norm="ortho")
    return kept.transpose(0, 3, 1, 4, 2, 5).reshape(image.shape)


def test_basis_is_orthonormal_and_equals_scipys():
    basis, _ = cosine_basis(64, [1.0, 1.0, 1.0])
    flat = basis.reshape(64, 64)
    torch.testing.assert_close(flat @ flat.T, torch.eye(64), atol=1e-6, rtol=0)
    block = np.zeros((4, 4, 4))
    block[0, 1, 0] = 1.0
    expected = fft.idctn(block, norm="ortho")
    assert min(np.abs(row.numpy() - expected).max() for row in basis) < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fresh_autoencoder_is_a_cosine_codec(seed):
    image = smooth_image(seed) * 0.8
    order = sorted(np.ndindex(4, 4, 4), key=lambda f: f[0] ** 2 + f[1] ** 2 + 0.5 * f[2] ** 2)
    expected = codec(image, order[:16])
    network = build_autoencoder(SMALL)
    with torch.no_grad():
        mean, sigma = network.encode_moments(torch.from_numpy(image)[None, None])
        decoded = network.decode(mean)[0, 0].numpy()
    # The normalisations are not exactly constant: 1 % of the range.
    assert np.abs(decoded - expected).max() < 0.01
    assert mean.shape == (1, 16, 8, 8, 4)
    assert torch.allclose(sigma, torch.full_like(sigma, np.exp(-3.0)), atol=1e-4)


def test_every_image_keeps_its_brightness():
    """Group normalisation would make these two alike."""
    network = build_autoencoder(SMALL)
    for level in (0.1, 0.9):
        with torch.no_grad():
            decoded = network.decode(network.encode_moments(torch.full((1, 1, 16, 16, 8), level))[0])
        assert decoded.mean() == pytest.approx(level, abs=0.02)


@pytest.mark.parametrize(
    "change",
    [{"transposed_upsampling": False}, {"channels": [4, 32, 64]}, {"latent_channels": 40}, {"norm_num_groups": 8}],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(CardError):
        build_autoencoder(SMALL | change)

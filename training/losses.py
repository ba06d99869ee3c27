"""What an autoencoder pays for: absolute error at several scales, of the finite differences, and the KL divergence."""

import torch
from torch import Tensor
from torch.nn import functional

_POOLS = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}


def halve(x: Tensor) -> Tensor:
    """Averages pairs of neighbours along every spatial axis of x [B, C, ...] that has at least two."""
    kernel = [2 if size >= 2 else 1 for size in x.shape[2:]]
    pooled: Tensor = _POOLS[x.ndim](x, kernel)
    return pooled


def pyramid_loss(prediction: Tensor, target: Tensor, levels: int) -> Tensor:
    """Mean absolute error of images halved 1 to `levels` times, averaged over the levels; 0 for no level.

    Coarse levels answer for brightness and shape where the plain absolute error would trade them for noise.
    """
    total = prediction.new_zeros(())
    for _ in range(levels):
        prediction, target = halve(prediction), halve(target)
        total = total + functional.l1_loss(prediction, target)
    return total / max(levels, 1)


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the finite differences, averaged over the spatial axes: it keeps edges sharp."""
    axes = [axis for axis in range(2, prediction.ndim) if prediction.shape[axis] >= 2]
    errors = [functional.l1_loss(prediction.diff(dim=axis), target.diff(dim=axis)) for axis in axes]
    return torch.stack(errors).mean() if errors else prediction.new_zeros(())


def kl_divergence(mean: Tensor, sigma: Tensor) -> Tensor:
    """KL divergence of a diagonal Gaussian from the standard one, in nats, averaged over all elements.

    Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix B, divided by the number of elements so that
    its weight does not depend on the image's size.
    """
    variance = sigma.square()
    return 0.5 * (mean.square() + variance - 1.0 - variance.clamp(min=1e-20).log()).mean()


def psnr_db(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each item [B, ...] of images in 0..1: the peak is 1."""
    errors = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return -10.0 * errors.clamp(min=1e-12).log10()

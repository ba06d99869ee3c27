"""Losses of denoiser training, all in float32 and kept per item so that a caller can weight, mask and log them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .schedule import NoiseSchedule

DENOISING_LOSSES = ("l1", "mse")


class DenoisingLoss(NamedTuple):
    """A denoising loss before it is averaged over the batch.

    Attributes:
        item: float32 [B], the mean over all elements of each item.
        group: float32 [B, G], the mean over each group of channels; its mean over groups is `item`.
    """

    item: torch.Tensor
    group: torch.Tensor


def denoising_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    kind: str = "mse",
    groups: int = 1,
    weight: torch.Tensor | None = None,
) -> DenoisingLoss:
    """Measure how far a prediction is from its target, per item and per group of channels.

    Args:
        prediction: the network's output [B, C, ...].
        target: what it should be, same shape.
        kind: "l1" (mean absolute error) or "mse" (mean squared error).
        groups: number of equal groups of neighbouring channels, one per sequence (t2w, hbv, adc: 3).
        weight: of each place, broadcasting to the prediction, e.g. [B, 1, ...]; None weighs all places alike.

    Returns:
        The loss per item and per group.

    Raises:
        ValueError: if shapes differ, the kind is unknown, or the channels do not divide into the groups.
    """
    if prediction.shape != target.shape or prediction.ndim < 2:
        raise ValueError(
            "Prediction and target need one shape [B, C, ...], "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    batch, channels = prediction.shape[:2]
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels do not divide into {groups} equal groups.")
    difference = prediction.float() - target.float()
    if kind == "l1":
        error = difference.abs()
    elif kind == "mse":
        error = difference.square()
    else:
        raise ValueError(f"Denoising loss {kind!r} is unknown; known are {', '.join(DENOISING_LOSSES)}.")
    if weight is not None:
        error = error * weight.to(error)
    group = error.reshape(batch, groups, -1).mean(dim=2)
    return DenoisingLoss(item=group.mean(dim=1), group=group)


def focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 0.75,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the focal loss of exclusive classes, averaged over items and classes.

    For the true class c of an item, with p = softmax(logits): -alpha_c (1 - p_c)^gamma log(p_c), where alpha_c is
    1 - alpha for class 0 (negative) and alpha for the others (Lin et al. 2017, "Focal loss for dense object detection",
    equation 5). The mean runs over the classes too, each class but the true one counting 0: the published weight of
    this term assumes so.

    Args:
        logits: [B, K], K >= 2.
        targets: one-hot rows [B, K] of 0 and 1. Scaled rows are refused, for they would scale the loss.
        gamma: focusing exponent, at least 0; 0 leaves a weighted cross-entropy.
        alpha: weight of the positive classes, 0 .. 1.
        mask: bool [B], True for the items that count; None means all.

    Returns:
        float32 scalar. Zero, still attached to the logits, where the mask leaves no item.

    Raises:
        ValueError: if a shape or a number is wrong or the targets are not one-hot.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.shape != targets.shape:
        raise ValueError(
            f"Focal loss needs logits and targets of one shape [B, K >= 2], got {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}."
        )
    if gamma < 0 or not 0 <= alpha <= 1:
        raise ValueError(f"Focal loss needs gamma >= 0 and alpha within 0 .. 1, got gamma {gamma} and alpha {alpha}.")
    one_hot = targets.to(device=logits.device, dtype=torch.float32)
    if not (bool(((one_hot == 0) | (one_hot == 1)).all()) and bool((one_hot.sum(dim=1) == 1).all())):
        raise ValueError("Focal loss needs one-hot targets: a single 1 in every row and 0 elsewhere.")
    log_p = (logits.float().log_softmax(dim=1) * one_hot).sum(dim=1)
    weight = torch.where(one_hot[:, 0] == 1, 1 - alpha, alpha)
    item = -weight * (1 - log_p.exp()).pow(gamma) * log_p / logits.shape[1]
    if mask is None:
        return item.mean()
    if mask.shape != item.shape or mask.dtype != torch.bool:
        raise ValueError(f"The mask must be bool [{len(item)}], got {mask.dtype} {tuple(mask.shape)}.")
    counted = mask.to(item.device).float()
    return (item * counted).sum() / counted.sum().clamp(min=1)


def min_snr_weights(schedule: NoiseSchedule, t: torch.Tensor, gamma: float = 5.0) -> torch.Tensor:
    """Give the min-SNR-gamma weight of each timestep for a mean squared error.

    Hang et al. 2023, "Efficient diffusion training via min-SNR weighting strategy", section 3.4: the weight of the
    clean latent's error is min(SNR, gamma), expressed in the error of what the network predicts.

    Args:
        schedule: the noise schedule, which also says what the network predicts.
        t: integer timesteps [B].
        gamma: the cap on the signal-to-noise ratio, positive.

    Returns:
        float32 weights [B] on t's device.

    Raises:
        ValueError: if gamma is not positive or a timestep is out of range.
    """
    if not gamma > 0:
        raise ValueError(f"The cap on the signal-to-noise ratio must be positive, got {gamma}.")
    ratio = schedule.signal_to_noise(t)
    capped = ratio.clamp(max=gamma)
    if schedule.prediction == "epsilon":
        return capped / ratio
    if schedule.prediction == "v_prediction":
        return capped / (ratio + 1)
    if schedule.is_flow:
        # z = z_t - s flow, so an error of the flow is s times as large in the clean latent; ratio = (1 / s - 1)^2.
        return capped / (ratio.sqrt() + 1) ** 2
    return capped

"""Classifier-free guidance."""

from __future__ import annotations

import math

import torch


def guide(*, cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """Combine a conditional and an unconditional prediction: uncond + scale (cond - uncond).

    Ho and Salimans 2022, "Classifier-free diffusion guidance", equation 6 with scale = 1 + w. Keywords only, because
    the two tensors cannot be told apart by anything but their names.

    Args:
        cond: prediction under the prompt, any shape.
        uncond: prediction under the empty condition, same shape.
        scale: 1.0 gives `cond` exactly, 0.0 gives `uncond` exactly, above 1 follows the prompt more closely.

    Returns:
        The guided prediction, same shape.

    Raises:
        ValueError: if the shapes differ or the scale is negative or not finite.
    """
    if cond.shape != uncond.shape:
        raise ValueError(
            f"Guidance needs two predictions of one shape, got {tuple(cond.shape)} and {tuple(uncond.shape)}."
        )
    if not math.isfinite(scale) or scale < 0:
        raise ValueError(f"A guidance scale must be a finite number of at least 0, got {scale}.")
    # The end points skip the arithmetic: in floating point, uncond + (cond - uncond) is not exactly cond.
    if scale == 1:
        return cond
    if scale == 0:
        return uncond
    return uncond + scale * (cond - uncond)

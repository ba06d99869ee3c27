"""Classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def guidance_scales(
    timesteps: Sequence[int], scale: float, interval: tuple[int, int] | None = None
) -> tuple[float, ...]:
    """The guidance scale at each timestep: `scale` inside the interval, 1 outside of it.

    Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality in
    diffusion models", equation 5, with the interval in timesteps instead of noise levels. A timestep that is not
    guided needs no unconditional prediction.

    Args:
        timesteps: the timestep table.
        scale: 1.0 is no guidance.
        interval: least and greatest timestep that are guided; None means all.

    Returns:
        One scale per timestep.
    """
    return tuple(scale if interval is None or interval[0] <= t <= interval[1] else 1.0 for t in timesteps)


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

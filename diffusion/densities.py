"""Densities of the timestep in training: which noise levels the denoiser practises most."""

from __future__ import annotations

import torch

DENSITIES = ("uniform", "high_noise", "logit_normal")


def draw_timesteps(count: int, train_timesteps: int, density: str, generator: torch.Generator) -> torch.Tensor:
    """Draw training timesteps.

    - "uniform": every timestep alike (Ho et al. 2020, algorithm 1).
    - "high_noise": t = floor(T sqrt(u)), so the density grows linearly with t. Where a structure lies is decided at
      high noise, and the uniform density hardly pays for it there.
    - "logit_normal": t = floor(T sigmoid(n)) with n standard normal; the middle most (Esser et al. 2024, equation 19).

    Args:
        count: how many to draw.
        train_timesteps: number of timesteps T.
        density: one of the names above.
        generator: a CPU generator, advanced by the draw.

    Returns:
        int64 timesteps [count] within 0 .. T - 1, on the CPU.

    Raises:
        ValueError: if a number is out of range or the density unknown.
    """
    if count < 0 or train_timesteps < 1:
        raise ValueError(f"Cannot draw {count} timesteps out of {train_timesteps}.")
    if density == "uniform":
        return torch.randint(train_timesteps, (count,), generator=generator, dtype=torch.int64)
    if density == "high_noise":
        share = torch.rand(count, generator=generator, dtype=torch.float64).sqrt()
    elif density == "logit_normal":
        share = torch.randn(count, generator=generator, dtype=torch.float64).sigmoid()
    else:
        raise ValueError(f"Timestep density {density!r} is unknown; known are {', '.join(DENSITIES)}.")
    # Rounding may bring a share just below 1 up to T itself.
    return (share * train_timesteps).long().clamp(max=train_timesteps - 1)

"""Preconditioning: what a network sees and what its output means, so that both have unit size at every noise level.

A noisy latent z_t = a z + b eps of channels with mean m and standard deviation s has the mean a m and the variance
v = a^2 s^2 + b^2. The network sees (z_t - a m) / sqrt(v), and its output F stands for the clean latent

    m + a s^2 / v (z_t - a m) + s b / sqrt(v) F.

The first two terms are the best linear guess per channel (Wiener's filter), so F has unit variance and an untrained
network already denoises. This is the preconditioning of Karras et al. 2022, "Elucidating the design space of
diffusion-based generative models", table 1 and appendix B.6, with one mean and deviation per latent channel and a
forward process that need not start from variance 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .schedule import NoiseSchedule


class Preconditioner:
    """Input and output scaling around a network that is asked for the clean latent.

    Args:
        schedule: the noise schedule; its prediction is "sample".
        mean: of each latent channel over the training set, scaled as the network's latents are; length C.
        std: standard deviation of each channel, positive; length C.

    Raises:
        ValueError: if the schedule asks for something else, or the lengths or signs are wrong.
    """

    def __init__(self, schedule: NoiseSchedule, mean: Sequence[float], std: Sequence[float]) -> None:
        if schedule.prediction != "sample":
            raise ValueError(f"Preconditioning gives the clean latent, not {schedule.prediction!r}.")
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(
                f"Preconditioning needs a mean and a positive deviation per channel, got {mean} and {std}."
            )
        self._schedule = schedule
        self._mean = torch.tensor(mean, dtype=torch.float32)
        self._std = torch.tensor(std, dtype=torch.float32)

    def network_input(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network sees of noisy latents.

        Args:
            z_t: noisy latents [B, C, ...].
            t: integer timesteps [B] or a single one.

        Returns:
            float32 [B, C, ...] of about unit variance.
        """
        offset, _, _, variance = self._terms(z_t, t)
        return (z_t.float() - offset) / variance.sqrt()

    def clean_latent(self, z_t: torch.Tensor, output: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean latent that the network's output stands for.

        Args:
            z_t: noisy latents [B, C, ...], as they were given to `network_input`.
            output: the network's output, same shape.
            t: integer timesteps [B] or a single one.

        Returns:
            float32 estimate of the clean latents [B, C, ...].
        """
        offset, signal, noise, variance = self._terms(z_t, t)
        mean, std = self._per_channel(z_t)
        linear = mean + signal * std**2 / variance * (z_t.float() - offset)
        return linear + std * noise / variance.sqrt() * output.float()

    def _per_channel(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, -1, *[1] * (z.ndim - 2))
        return self._mean.to(z.device).view(shape), self._std.to(z.device).view(shape)

    def _terms(self, z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean of the noisy latent, factors of signal and noise, and its variance, each broadcasting to z."""
        signal, noise = self._schedule.factors(z, t)
        mean, std = self._per_channel(z)
        return signal * mean, signal, noise, signal**2 * std**2 + noise**2

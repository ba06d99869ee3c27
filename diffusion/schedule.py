"""The forward process: how much noise a latent carries at each timestep, and what a network is asked to predict.

A noisy latent is z_t = sqrt(a_t) z + sqrt(1 - a_t) eps, where a_t is the cumulative product of the alphas (Ho et al.
2020, "Denoising diffusion probabilistic models", equation 4). A rectified flow goes straight instead: z_t = (1 - s) z +
s eps with s = (t + 1) / T (Liu et al. 2023, "Flow straight and fast", equation 1). Tables are float64, tensors float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

BETA_SCHEDULES = ("scaled_linear", "linear", "cosine", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# The straight path and what its network predicts belong together, and to no other schedule.
FLOW_SCHEDULE = "rectified_flow"
FLOW_PREDICTION = "flow"

# The cosine schedule's offset and cap (Nichol and Dhariwal 2021, section 3.2).
_COSINE_OFFSET = 0.008
_COSINE_MAX_BETA = 0.999


def _cosine_betas(train_timesteps: int) -> torch.Tensor:
    time = torch.arange(train_timesteps + 1, dtype=torch.float64) / train_timesteps
    signal = torch.cos((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=_COSINE_MAX_BETA)


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise schedule of a model, variance-preserving or a rectified flow, and the quantity its network predicts.

    Attributes:
        train_timesteps: number of timesteps T; t runs from 0 (least noise) to T - 1.
        beta_schedule: "scaled_linear" (linear in sqrt(beta), Rombach et al. 2022), "linear" (Ho et al. 2020) or
            "cosine", also called "squaredcos_cap_v2" (Nichol and Dhariwal 2021), or "rectified_flow".
        beta_start: beta at t = 0; used by the linear schedules only.
        beta_end: beta at t = T - 1; used by the linear schedules only.
        prediction: "epsilon" (the noise), "v_prediction" (sqrt(a) eps - sqrt(1 - a) z; Salimans and Ho 2022, appendix
            D), "sample" (the clean latent) or, for the rectified flow, "flow" (eps - z).

    Raises:
        ValueError: if a name is unknown or a number out of range.
    """

    train_timesteps: int
    beta_schedule: str
    beta_start: float
    beta_end: float
    prediction: str

    def __post_init__(self) -> None:
        if self.train_timesteps < 1:
            raise ValueError(f"A noise schedule needs at least one timestep, got {self.train_timesteps}.")
        schedules, predictions = (*BETA_SCHEDULES, FLOW_SCHEDULE), (*PREDICTIONS, FLOW_PREDICTION)
        if self.beta_schedule not in schedules:
            raise ValueError(f"Beta schedule {self.beta_schedule!r} is unknown; known are {', '.join(schedules)}.")
        if self.prediction not in predictions:
            raise ValueError(f"Prediction {self.prediction!r} is unknown; known are {', '.join(predictions)}.")
        if (self.beta_schedule == FLOW_SCHEDULE) != (self.prediction == FLOW_PREDICTION):
            raise ValueError(
                f"Schedule {self.beta_schedule!r} does not go with prediction {self.prediction!r}: "
                f"{FLOW_SCHEDULE!r} and {FLOW_PREDICTION!r} go with each other alone."
            )
        if "linear" in self.beta_schedule and not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"Betas must satisfy 0 < beta_start <= beta_end < 1, got {self.beta_start} and {self.beta_end}."
            )

    @property
    def is_flow(self) -> bool:
        """Whether noise is mixed in along a straight line."""
        return self.beta_schedule == FLOW_SCHEDULE

    @cached_property
    def betas(self) -> torch.Tensor:
        """Variance added at each timestep, float64 [T] on the CPU; ValueError for a rectified flow, which has none."""
        if self.is_flow:
            raise ValueError("A rectified flow has no betas.")
        if self.beta_schedule == "scaled_linear":
            root = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_timesteps, dtype=torch.float64)
            return root**2
        if self.beta_schedule == "linear":
            return torch.linspace(self.beta_start, self.beta_end, self.train_timesteps, dtype=torch.float64)
        return _cosine_betas(self.train_timesteps)

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        """Share of the signal's variance that is left at each timestep, float64 [T] on the CPU, decreasing."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of the clean latent and of the noise at each timestep, each float64 [T] on the CPU."""
        if self.is_flow:
            noise = torch.arange(1, self.train_timesteps + 1, dtype=torch.float64) / self.train_timesteps
            return 1 - noise, noise
        return self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()

    def signal_to_noise(self, t: torch.Tensor) -> torch.Tensor:
        """Give the signal-to-noise ratio of variances, a_t / (1 - a_t), of each timestep.

        Args:
            t: integer timesteps of any shape.

        Returns:
            float32 ratios of the same shape, on t's device.

        Raises:
            ValueError: if a timestep is not an integer between 0 and T - 1.
        """
        signal, noise = (table[self._index(t)] for table in self.levels)
        return ((signal / noise) ** 2).to(torch.float32).to(t.device)

    def add_noise(self, z: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Make noisy latents: z_t = sqrt(a_t) z + sqrt(1 - a_t) eps, or the straight mixture of a rectified flow.

        Args:
            z: clean latents [B, ...].
            eps: standard normal noise of the same shape.
            t: integer timesteps [B], or a single one for all items. On the CPU it costs no wait for the device.

        Returns:
            float32 noisy latents [B, ...].

        Raises:
            ValueError: if shapes disagree or a timestep is not an integer between 0 and T - 1.
        """
        signal, noise = self._coefficients(z, eps, t)
        return signal * z.float() + noise * eps.float()

    def target(self, z: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Give what the network should predict for the clean latents z made noisy with eps at t.

        Args:
            z: clean latents [B, ...].
            eps: the noise that was added, same shape.
            t: integer timesteps [B] or a single one.

        Returns:
            float32 target [B, ...] of this schedule's prediction type.

        Raises:
            ValueError: if shapes disagree or a timestep is not an integer between 0 and T - 1.
        """
        signal, noise = self._coefficients(z, eps, t)
        if self.prediction == "epsilon":
            return eps.float()
        if self.prediction == "sample":
            return z.float()
        if self.is_flow:
            return eps.float() - z.float()
        return signal * eps.float() - noise * z.float()

    def to_x0(self, z_t: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Turn a network's prediction into the clean latent it implies.

        Args:
            z_t: noisy latents [B, ...].
            prediction: the network's output, same shape.
            t: integer timesteps [B] or a single one.

        Returns:
            float32 estimate of the clean latents [B, ...].

        Raises:
            ValueError: if shapes disagree or a timestep is not an integer between 0 and T - 1.
        """
        signal, noise = self._coefficients(z_t, prediction, t)
        if self.prediction == "epsilon":
            return (z_t.float() - noise * prediction.float()) / signal
        if self.prediction == "sample":
            return prediction.float()
        if self.is_flow:
            return z_t.float() - noise * prediction.float()
        return signal * z_t.float() - noise * prediction.float()

    def to_eps(self, z_t: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Turn a network's prediction into the noise it implies.

        Args:
            z_t: noisy latents [B, ...].
            prediction: the network's output, same shape.
            t: integer timesteps [B] or a single one.

        Returns:
            float32 estimate of the noise [B, ...].

        Raises:
            ValueError: if shapes disagree or a timestep is not an integer between 0 and T - 1.
        """
        signal, noise = self._coefficients(z_t, prediction, t)
        if self.prediction == "epsilon":
            return prediction.float()
        if self.prediction == "sample":
            return (z_t.float() - signal * prediction.float()) / noise
        if self.is_flow:
            return z_t.float() + signal * prediction.float()
        return signal * prediction.float() + noise * z_t.float()

    def _index(self, t: torch.Tensor) -> torch.Tensor:
        if t.dtype.is_floating_point or t.dtype == torch.bool:
            raise ValueError(f"Timesteps must be integers, got a tensor of {t.dtype}.")
        index = t.detach().to(device="cpu", dtype=torch.long)
        # A negative index would silently wrap around to the noisiest timesteps.
        if index.numel() and (index.min() < 0 or index.max() >= self.train_timesteps):
            raise ValueError(
                f"Timesteps must lie between 0 and {self.train_timesteps - 1}, "
                f"got {int(index.min())} to {int(index.max())}."
            )
        return index

    def factors(self, z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the factors of the clean latent and of the noise in noisy latents.

        Args:
            z: latents [B, ...].
            t: integer timesteps [B] or a single one.

        Returns:
            Two float32 tensors [B, 1, ...] or [1, 1, ...] on z's device.

        Raises:
            ValueError: if there are not as many timesteps as latents, or one is not an integer between 0 and T - 1.
        """
        if t.ndim > 1 or (t.numel() != 1 and t.shape[0] != z.shape[0]):
            raise ValueError(f"{z.shape[0]} latents need {z.shape[0]} timesteps or one, got shape {tuple(t.shape)}.")
        index = self._index(t)
        signal, noise = (table[index].reshape(-1, *[1] * (z.ndim - 1)).float().to(z.device) for table in self.levels)
        return signal, noise

    def _coefficients(self, z: torch.Tensor, other: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if z.shape != other.shape:
            raise ValueError(f"Latents of shape {tuple(z.shape)} do not go with a tensor of {tuple(other.shape)}.")
        return self.factors(z, t)

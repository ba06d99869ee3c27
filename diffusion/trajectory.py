"""Where a teacher goes in several small steps, and what takes a student there in one.

A deterministic step from the noise level (a, b) to (a', b') along the clean latent x is

    z' = (b' / b) z + (a' - a b' / b) x,

which is DDIM (Song et al. 2021, "Denoising diffusion implicit models", equation 12) and, for a rectified flow, Euler's
step. Solved for x it gives the clean latent with which one step lands on any wanted z': the target of progressive
distillation (Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models", algorithm 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from .schedule import NoiseSchedule
from .timesteps import check_table

# (noisy latents [B, ...], timesteps [B]) -> clean latents [B, ...]
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Trajectory:
    """A teacher's timestep table, cut into the steps of a student; behind the last timestep lies the clean latent.

    Attributes:
        schedule: the noise schedule of both.
        timesteps: the teacher's table, strictly descending.
        substeps: teacher's steps for each of the student's; divides the table.
        second_order: whether the teacher extrapolates from its previous step, as DPM-Solver++(2M) does (Lu et al. 2022,
            algorithm 2), beginning anew at each of the student's timesteps; else it moves by DDIM.

    Raises:
        ValueError: if the table is none of the schedule, or the substeps do not divide it.
    """

    schedule: NoiseSchedule
    timesteps: tuple[int, ...]
    substeps: int
    second_order: bool = False

    def __post_init__(self) -> None:
        check_table(self.timesteps, self.schedule.train_timesteps)
        if self.substeps < 1 or len(self.timesteps) % self.substeps:
            raise ValueError(
                f"{len(self.timesteps)} timesteps cannot be cut into student steps of {self.substeps} each."
            )

    @property
    def student_timesteps(self) -> tuple[int, ...]:
        """The student's table."""
        return self.timesteps[:: self.substeps]

    def locate(self, t: torch.Tensor) -> torch.Tensor:
        """The student's steps that begin at timesteps t [B] of its table; int64 [B] on the CPU.

        Raises:
            ValueError: if a timestep is not in the student's table.
        """
        place = {timestep: step for step, timestep in enumerate(self.student_timesteps)}
        wanted = [int(timestep) for timestep in t.cpu()]
        if not place.keys() >= set(wanted):
            raise ValueError(f"Timesteps {wanted} are not all in the student's table {self.student_timesteps}.")
        return torch.tensor([place[timestep] for timestep in wanted])

    def walk(self, denoise: Denoise, z_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Lets the teacher go from the beginning of a student's step to its end.

        Args:
            denoise: the teacher's estimate of the clean latents.
            z_t: noisy latents [B, ...] at the first timestep of their step.
            step: which of the student's steps each item is to take, int64 [B] on the CPU.

        Returns:
            float32 latents [B, ...] at the next timestep of the student; after its last step, clean.
        """
        table = torch.tensor(self.timesteps)
        z, before = z_t.float(), None
        for k in range(self.substeps):
            start = step * self.substeps + k
            clean = denoise(z, table[start].to(z.device)).float()
            aim = clean
            if self.second_order and before is not None:
                aim = clean + _spread(self._lean[start], z) * (clean - before)
            kept, gained = self._factors(start, start + 1, z)
            z, before = kept * z + gained * aim, clean
        return z

    def clean_target(self, z_t: torch.Tensor, landing: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The clean latents that take one DDIM step from z_t to the landing.

        Args:
            z_t: noisy latents [B, ...] at the first timestep of their step.
            landing: where they are to be at the next timestep of the student.
            step: which of the student's steps, int64 [B] on the CPU.

        Returns:
            float32 clean latents [B, ...]; the landing itself for the last step.
        """
        start = step * self.substeps
        kept, gained = self._factors(start, start + self.substeps, z_t)
        return (landing.float() - kept * z_t.float()) / gained

    @cached_property
    def _levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of signal and noise at each timestep and at the clean end, float64 [n + 1]."""
        signal, noise = (table[list(self.timesteps)] for table in self.schedule.levels)
        return torch.cat([signal, signal.new_ones(1)]), torch.cat([noise, noise.new_zeros(1)])

    @cached_property
    def _lean(self) -> torch.Tensor:
        """How far the teacher extrapolates at each timestep, float64 [n]: half the ratio of the steps in log(a / b).

        The last step is infinitely long in that measure, and is taken without.
        """
        signal, noise = self._levels
        lengths = (signal / noise).log().diff()
        lean = torch.zeros_like(lengths)
        lean[1:-1] = lengths[1:-1] / lengths[:-2] / 2
        return lean

    def _factors(self, start: torch.Tensor, end: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of z and of the clean latent in the step between two entries of the table."""
        signal, noise = self._levels
        kept = noise[end] / noise[start]
        return _spread(kept, like), _spread(signal[end] - signal[start] * kept, like)


def _spread(factor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Per-item factors [B] as float32 [B, 1, ...] on the device of latents."""
    return factor.float().to(like.device).reshape(-1, *[1] * (like.ndim - 1))

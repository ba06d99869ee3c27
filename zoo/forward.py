"""The forward diffusion that a card describes, and the scaling around its network."""

from collections.abc import Sequence

import torch

from ..diffusion.preconditioning import Preconditioner
from ..diffusion.samplers import Predict
from ..diffusion.schedule import NoiseSchedule
from ..diffusion.timesteps import timestep_table
from .card import Card
from .errors import CardError
from .family import Plan
from .generation import SamplerDefaults


def noise_schedule(card: Card) -> NoiseSchedule:
    """The card's forward diffusion."""
    schedule = card.schedule
    return NoiseSchedule(
        schedule.train_timesteps, schedule.beta_schedule, schedule.beta_start, schedule.beta_end, schedule.prediction
    )


def choose_timesteps(card: Card, sampler: SamplerDefaults, steps: int) -> tuple[int, ...]:
    """The timestep table of a number of steps.

    Args:
        card: The model.
        sampler: The card's own or that of a preset: its table serves its number of steps.
        steps: How many are wanted. Another number than the sampler's takes the quadratic table down to its last
            timestep, or an even one for a rectified flow: a straight line is followed in even steps; a curved one needs
            more towards the clean end.

    Raises:
        ValueError: There are more steps than timesteps of training, or none.
    """
    if sampler.timesteps is not None and steps == sampler.steps:
        return sampler.timesteps
    if card.schedule.prediction == "flow":
        return timestep_table(card.schedule.train_timesteps, steps, "trailing")
    return timestep_table(card.schedule.train_timesteps, steps, "quadratic", sampler.last_timestep)


def preconditioner(card: Card) -> Preconditioner | None:
    """The scaling around the card's network; None where the card asks for none.

    Raises:
        CardError: The card asks for it but holds no statistics of its latents yet.
    """
    if card.schedule.preconditioning == "none":
        return None
    if card.latent.mean is None or card.latent.std is None:
        raise CardError(
            f"Model {card.id} is preconditioned but has no latent.mean and latent.std.",
            "They are computed and saved when its denoiser is trained: use a trained model folder.",
        )
    return Preconditioner(noise_schedule(card), card.latent.mean, card.latent.std)


def predictor(card: Card, plan: Plan, timesteps: Sequence[int], dtype: torch.dtype) -> Predict:
    """What `diffusion.samplers.sample` calls at each step: the plan's network with the card's scaling around it.

    Args:
        card: The model.
        plan: Of the batch, from the family's `prepare` with the same timesteps.
        timesteps: The timestep table.
        dtype: Of the network's input.

    Returns:
        A function (z, step) -> prediction in float32, in the schedule's prediction type.
    """
    scaling = preconditioner(card)
    if scaling is None:
        return lambda z, step: plan.predict(z.to(dtype), step).float()

    def predict(z: torch.Tensor, step: int) -> torch.Tensor:
        # Guidance is linear in the network's output, so it may be applied before the output is turned into a latent.
        t = torch.tensor(timesteps[step])
        return scaling.clean_latent(z, plan.predict(scaling.network_input(z, t).to(dtype), step), t)

    return predict

"""What a denoiser is asked for in training: the prediction at a noise level, and how far it is off."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..diffusion.losses import denoising_loss, focal_loss, min_snr_weights
from ..diffusion.preconditioning import Preconditioner
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.forward import noise_schedule
from .config import DenoiserTraining
from .distillation import Teacher
from .task import Batch


class DenoiserObjective(nn.Module):
    """The denoiser and its loss.

    Args:
        denoiser: The network.
        card: Says the family, the schedule and the image channels.
        options: Of the training.
        teacher: Says what is to be predicted instead of the exam itself, where a student is trained.
    """

    def __init__(
        self, denoiser: nn.Module, card: Card, options: DenoiserTraining, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.teacher = teacher
        self.options = options
        self._family = load_family(card.family)
        self._evaluate = self._family.training_forward
        self._schedule = noise_schedule(card)
        self.preconditioner: Preconditioner | None = None
        self._names = card.image.channel_names
        weights = options.channel_weights or (1.0,) * len(self._names)
        if len(weights) != len(self._names):
            raise InputError(
                f"Option channel_weights has {len(weights)} values.", f"Give one each for {', '.join(self._names)}."
            )
        self._weights = torch.tensor(weights) / (sum(weights) / len(weights))

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of clean scaled latents `z` with noise `eps` at timesteps `t`, conditioned on the rest of the batch.

        The class loss is summed over the items that count and divided by the whole batch, so that every exam weighs the
        same whatever its neighbours and however the batch is shared out.
        """
        options = self.options
        prediction, target, logits = self._predict(batch)
        weight = 1.0 + self._region_weight(step) * batch["region"] if "region" in batch else None
        measured = denoising_loss(prediction, target, kind=options.loss, groups=len(self._names), weight=weight)
        item = (measured.group * self._weights.to(measured.group)).mean(dim=1)
        if options.loss_weighting == "min_snr":
            item = item * min_snr_weights(self._schedule, batch["t"], options.min_snr_gamma)
        counted = batch["class_counts"]
        targets = nn.functional.one_hot(batch["class_label"].clamp(min=0), logits.shape[-1])
        focal = (
            focal_loss(logits, targets, gamma=options.focal_gamma, alpha=options.focal_alpha, mask=counted)
            * counted.float().mean()
        )
        groups = measured.group.mean(dim=0)
        scalars = {"denoising": item.mean(), "class": focal}
        scalars |= {f"loss_{name}": groups[place] for place, name in enumerate(self._names)}
        return item.mean() + options.class_weight * focal, scalars

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, target and class logits without a loss, for validation."""
        prediction, target, logits = self._predict(batch)
        return prediction.float(), target, logits.float()

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        t, scaling = batch["t"], self.preconditioner
        z_t = self._schedule.add_noise(batch["z"], batch["eps"], t)
        target = self._target(z_t, batch)
        seen = z_t if scaling is None else scaling.network_input(z_t, t)
        output, logits = self._evaluate(self.denoiser, seen, t, batch)
        return output if scaling is None else scaling.clean_latent(z_t, output, t), target, logits

    def _target(self, z_t: Tensor, batch: Batch) -> Tensor:
        t = batch["t"]
        if self.teacher is None:
            return self._schedule.target(batch["z"], batch["eps"], t)
        clean = self.teacher.clean_target(z_t, batch)
        signal, noise = self._schedule.factors(z_t, t)
        return self._schedule.target(clean, (z_t - signal * clean) / noise, t)

    def _region_weight(self, step: int) -> float:
        """Between the first and the last step the weight falls by the same factor every step."""
        first, last = self.options.region_weight, self.options.region_weight_final
        share = min(step / self.options.steps, 1.0)
        return first ** (1 - share) * last**share if first and last else first + (last - first) * share

    def checkpointing_units(self) -> Sequence[nn.Module]:
        """See `task.Task`."""
        units: Sequence[nn.Module] = self._family.recomputed_blocks(self.denoiser)
        return units

    def sharding_units(self) -> Sequence[nn.Module]:
        """See `task.Task`."""
        units: Sequence[nn.Module] = self._family.sharded_blocks(self.denoiser)
        return units

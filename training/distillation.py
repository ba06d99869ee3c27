"""Students of few sampling steps: what a frozen teacher makes of a noisy latent in many steps and with guidance.

A student starts with its teacher's weights. From a noisy exam at one of its own timesteps the teacher goes on to the
next one, and the student is asked for the clean latent that takes a single DDIM step there (Salimans and Ho 2022,
"Progressive distillation for fast sampling of diffusion models"). The teacher's guidance is learnt with the rest (Meng
et al. 2023, "On distillation of guided diffusion models"), so that a student's step is one evaluation of the network.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.guidance import guidance_scales, guide
from ..diffusion.trajectory import Trajectory
from ..imaging.errors import InputError
from ..zoo.card import Card, parse_card
from ..zoo.errors import CardError
from ..zoo.family import load_family
from ..zoo.forward import choose_timesteps, noise_schedule, preconditioner
from ..zoo.loading import load_part, part_digests
from .channels_last import use_channels_last
from .config import DenoiserTraining
from .splits import digest_words
from .task import Batch

# Solvers that extrapolate from the step before.
_SECOND_ORDER = ("dpmsolver++", "unipc")


class Teacher:
    """A frozen denoiser that sets a student's targets. It is no module, so that no checkpoint holds its weights.

    Args:
        card: The teacher's model, trained.
        network: Its denoiser.
        null_text: Embedding of the empty report, [L, W].
        trajectory: Its timesteps and the student's.
        guidance_scale: Of its classifier-free guidance, at the timesteps that the card guides; 1 is none.
    """

    def __init__(
        self, card: Card, network: nn.Module, null_text: Tensor, trajectory: Trajectory, guidance_scale: float
    ) -> None:
        self.card = card
        self.trajectory = trajectory
        self.guidance_scale = guidance_scale
        self.guidance_interval = card.sampler.guidance_interval
        self._network = network.eval().requires_grad_(False)
        self._null_text = null_text
        self._evaluate = load_family(card.family).training_forward
        self._schedule = noise_schedule(card)
        self._scaling = preconditioner(card)

    @torch.no_grad()
    def clean_target(self, z_t: Tensor, batch: Batch) -> Tensor:
        """The clean latents that a student should see in noisy ones.

        Args:
            z_t: Noisy scaled latents [B, C, ...] at the student's timesteps `t` of the batch.
            batch: As the denoiser's objective gets it.

        Returns:
            float32 [B, C, ...]: one DDIM step along them lands where the teacher does.
        """
        network = self._network.to(z_t.device)
        with_null = None if self.guidance_scale == 1.0 else self._with_null(batch)

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            seen = z if self._scaling is None else self._scaling.network_input(z, t)
            scales = torch.tensor(guidance_scales(t.tolist(), self.guidance_scale, self.guidance_interval))
            if with_null is not None and (scales != 1.0).any():
                # Both guidance branches in one pass.
                both, _ = self._evaluate(network, torch.cat([seen, seen]), t.repeat(2), with_null)
                conditional, unconditional = both.float().chunk(2)
                output = guide(cond=conditional, uncond=unconditional, scale=self.guidance_scale)
                # The items of a batch are at timesteps of their own.
                unguided = (scales == 1.0).to(z.device).reshape(-1, *[1] * (z.ndim - 1))
                output = torch.where(unguided, conditional, output)
            else:
                output, _ = self._evaluate(network, seen, t, batch)
            if self._scaling is None:
                return self._schedule.to_x0(z, output, t)
            return self._scaling.clean_latent(z, output, t)

        step = self.trajectory.locate(batch["t"])
        landing = self.trajectory.walk(denoise, z_t, step)
        return self.trajectory.clean_target(z_t, landing, step)

    def identity(self) -> str:
        """Digest of all that decides the targets, for resumption."""
        weights = [digest for name, digest in part_digests(self.card).items() if name.startswith("denoiser/")]
        interval = [] if self.guidance_interval is None else [repr(self.guidance_interval)]
        return digest_words([*weights, repr(self.trajectory), repr(self.guidance_scale), *interval])

    def _with_null(self, batch: Batch) -> Batch:
        """The conditions twice: as they are, and with the empty report and class 0."""
        text, mask = batch["text"], batch["mask"]
        count, length = mask.shape
        null = self._null_text.to(text)
        longer = max(length, len(null))
        nulls = nn.functional.pad(null, (0, 0, 0, longer - len(null))).expand(count, -1, -1)
        real = torch.arange(longer, device=mask.device) < len(null)
        labels = batch["class_label"]
        return {
            "text": torch.cat([nn.functional.pad(text, (0, 0, 0, longer - length)), nulls]),
            "mask": torch.cat([nn.functional.pad(mask, (0, longer - length)), real.expand(count, -1)]),
            "spacing_mm": batch["spacing_mm"].repeat(2, 1),
            "class_label": torch.cat([labels, torch.zeros_like(labels)]),
        }


def load_teacher(card: Card, null_text: Tensor, options: DenoiserTraining) -> Teacher:
    """The denoiser of a model as a teacher.

    Raises:
        InputError: See `plan_trajectory`.
        WeightsMissingError, CardError, DigestMismatchError: The model's denoiser cannot be loaded.
    """
    trajectory, scale = plan_trajectory(card, options), _guidance(card, options)
    network = load_part(card, "denoiser")
    # Most of the work of a step; without a backward pass this order is the faster one.
    use_channels_last(network)
    return Teacher(card, network, null_text, trajectory, scale)


def plan_trajectory(card: Card, options: DenoiserTraining) -> Trajectory:
    """The timesteps of a teacher and its student.

    The teacher moves as its card samples: by DPM-Solver++ where the card names a solver of second order, else by DDIM.

    Raises:
        InputError: The teacher cannot be distilled, or not with these options.
        CardError: It is not trained.
    """
    steps, sampler = options.distill_steps, card.sampler
    if options.initial != "card":
        raise InputError("A student starts with its teacher's weights, not with random ones.", "Add --finetune.")
    if card.latent.scale is None:
        raise CardError(f"Model {card.id} has no latent.scale: it is not trained.", "Train it before its student.")
    if card.schedule.prediction == "epsilon":
        raise InputError(
            f"Model {card.id} predicts the noise, from which no clean latent can be read where all is noise.",
            "Distil a model that predicts sample, v_prediction or flow.",
        )
    if not options.distill_substeps and (sampler.steps % steps or steps > sampler.steps):
        raise InputError(
            f"The {sampler.steps} sampling steps of model {card.id} cannot be shared by {steps} steps of a student.",
            "Choose a distill_steps that divides them, or give distill_substeps.",
        )
    substeps = options.distill_substeps or sampler.steps // steps
    if sampler.distilled:
        _check_halving(card, options, steps * substeps)
    try:
        timesteps = choose_timesteps(card, sampler, steps * substeps)
    except ValueError as error:
        raise InputError(
            f"A student of {steps} steps with {substeps} steps of its teacher each needs {steps * substeps} timesteps; "
            f"model {card.id} has {card.schedule.train_timesteps}.",
            "Lower distill_steps or distill_substeps.",
        ) from error
    return Trajectory(noise_schedule(card), timesteps, substeps, sampler.name in _SECOND_ORDER)


def student_card(teacher: Teacher) -> Card:
    """The card that a student's is derived from: its own sampler; the teacher's figures go when weights are stored."""
    card, trajectory = teacher.card, teacher.trajectory
    document: dict[str, Any] = copy.deepcopy(dict(card.document))
    document["sampler"] = {
        "name": "euler" if trajectory.schedule.is_flow else "ddim",
        "steps": len(trajectory.student_timesteps),
        "guidance_scale": 1.0,
        "timesteps": list(trajectory.student_timesteps),
        "distilled": True,
    }
    # Presets name steps that a student does not know.
    document.pop("presets", None)
    provenance = document.setdefault("provenance", {})
    history = {name: provenance.pop(name) for name in ("denoiser", "teacher") if name in provenance}
    provenance["teacher"] = {
        "id": card.id,
        "files": {name: digest for name, digest in part_digests(card).items() if name.startswith("denoiser/")},
        "solver": "DPM-Solver++(2M)" if trajectory.second_order else "DDIM",
        "timesteps": list(trajectory.timesteps),
        "guidance_scale": teacher.guidance_scale,
        **({} if teacher.guidance_interval is None else {"guidance_interval": list(teacher.guidance_interval)}),
        **history,
    }
    return parse_card(document, card.directory / "card.toml")


def check_student(card: Card, out: Path, options: DenoiserTraining) -> None:
    """Refuses, before anything is read, what would spoil a student or its teacher.

    Raises:
        InputError: The student's folder is its teacher's, or a student is to be trained as if it were none.
    """
    if options.distill and out.resolve() == card.directory.resolve():
        raise InputError(f"{out} holds the teacher, which its student would overwrite.", "Choose another -o.")
    if not options.distill and card.sampler.distilled:
        raise InputError(
            f"Model {card.id} is a student of {card.sampler.steps} steps and knows no other timesteps.",
            "Train its teacher's model, or add --distill to go on to fewer steps.",
        )


def _guidance(card: Card, options: DenoiserTraining) -> float:
    return options.distill_guidance or card.sampler.guidance_scale


def _check_halving(card: Card, options: DenoiserTraining, count: int) -> None:
    """A student as a teacher knows its own timesteps alone, and its guidance is in its weights."""
    if count != card.sampler.steps:
        raise InputError(
            f"Model {card.id} is a student of {card.sampler.steps} steps, and {count} were asked of it.",
            "Leave out distill_substeps.",
        )
    if _guidance(card, options) != 1.0:
        raise InputError(
            f"Model {card.id} is a student that has learnt its teacher's guidance, and distill_guidance is "
            f"{options.distill_guidance:g}.",
            "Leave out distill_guidance.",
        )

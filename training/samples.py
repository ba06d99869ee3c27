"""Samples from validation reports while a denoiser trains, drawn as a mosaic beside what was encoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.guidance import guidance_scales
from ..diffusion.noise import draw_noise
from ..diffusion.samplers import sample
from ..imaging.previews import write_mosaic
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.forward import choose_timesteps, noise_schedule, predictor
from .latents import LatentItem
from .randomness import VALIDATION, derive_seed


@dataclass(frozen=True)
class SamplePlan:
    """What is sampled, the same at every visit, so that mosaics of one run can be compared.

    Attributes:
        items: Validation exams, with their prompts.
        null_text: Embedding of the empty report, [L, W].
        steps: Sampling steps.
        seed: Of the run; noise depends on it and on an item's place.
    """

    items: Sequence[tuple[LatentItem, str]]
    null_text: Tensor
    steps: int
    seed: int


@torch.no_grad()
def draw_samples(
    path: Path, card: Card, plan: SamplePlan, *, weights: Mapping[str, Tensor], autoencoder: nn.Module,
    device: torch.device,
) -> None:  # fmt: skip
    """Samples with a deterministic sampler, in fp32, and writes the mosaic.

    Args:
        path: The PNG.
        card: The model, with its latent scale.
        plan: What to sample.
        weights: State dict of the denoiser.
        autoencoder: Decodes the samples.
        device: Where to compute.
    """
    family = load_family(card.family)
    denoiser: nn.Module = family.build(card.part("denoiser"))
    denoiser.load_state_dict(dict(weights), strict=True)
    denoiser.to(device).eval()
    autoencoder = autoencoder.to(device)
    drawn = []
    for place, (item, prompt) in enumerate(plan.items):
        z = _sample_one(card, family, denoiser, item, plan, place, device)
        pair = {"sample": z, "encoded": item.mean[None].to(device)}
        for word, latent in pair.items():
            x = family.decode_latent(card, autoencoder, latent)[0].float().cpu().numpy()
            channels = dict(zip(card.image.channel_names, np.nan_to_num(x), strict=True))
            drawn.append((f"{word}, {item.id}: {prompt}" if word == "sample" else f"{word}, {item.id}", channels))
    write_mosaic(path, drawn, spacing_mm=card.image.spacing_mm, label="validation")


def _sample_one(
    card: Card, family: Any, denoiser: nn.Module, item: LatentItem, plan: SamplePlan, place: int, device: torch.device
) -> Tensor:
    """One latent [1, C, ...] in the autoencoder's units."""
    schedule = noise_schedule(card)
    own = card.sampler
    table = choose_timesteps(card, own, own.steps if own.distilled else plan.steps)
    solver = own.name if own.distilled or schedule.is_flow else "dpmsolver++"
    label = item.class_label if family.class_input(card) == "given" else None
    prepared = family.prepare(
        card,
        denoiser,
        [family.Conditions(item.text, item.text_is_null, label, item.spacing_mm)],
        timesteps=table,
        guidance_scales=guidance_scales(table, own.guidance_scale, own.guidance_interval),
        null_text=plan.null_text,
    )
    noise = draw_noise(derive_seed(plan.seed, VALIDATION, 1, place), card.latent_shape)[None]
    z = sample(
        predictor(card, prepared, table, torch.float32),
        noise.to(device),
        schedule=schedule,
        sampler=solver,
        timesteps=table,
    )
    latent: Tensor = family.unscale_latent(card, z)
    return latent

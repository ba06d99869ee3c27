"""Floating-point operations of a computation, counted from the shapes of its tensors without carrying it out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..zoo.card import Card
from ..zoo.family import load_family
from .sampler_settings import SampleSettings

# PyTorch's table of formulas has the attention kernels of GPUs only.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def count_flops(compute: Callable[[], Any]) -> int:
    """Counts the operations of matrix products, convolutions and attention; a multiply-add is two.

    Tensors are replaced by their shapes, so that a count costs no arithmetic and no memory even at full size. Norms,
    activations and additions are not counted: beside a convolution they are few.

    Args:
        compute: Runs PyTorch networks; must not look at the values of tensors.

    Returns:
        The number of operations.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: count_attention})
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        compute()
    return int(counter.get_total_flops())


def count_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Operations of softmax(Q K^T) V for shapes B heads L width: two products over all pairs of tokens."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def count_exam(
    card: Card, settings: SampleSettings, denoiser: torch.nn.Module, autoencoder: torch.nn.Module, text: torch.Tensor
) -> dict[str, int]:
    """Operations of the stages of sampling that run networks on latents.

    Args:
        card: The model.
        settings: Timestep table, guidance and batch size.
        denoiser: Its denoiser in PyTorch, on any device; only shapes matter.
        autoencoder: Its autoencoder likewise.
        text: Token features of a report, L W; only its shape matters.

    Returns:
        Of one exam: "adapter" (all timesteps), each of the settings' `kinds_of_step` (one of them), "decode".
    """
    family = load_family(card.family)
    parameter = next(denoiser.parameters())
    text = torch.zeros(text.shape, dtype=parameter.dtype, device=parameter.device)
    # Reports of their own: the adapter works once for those that are the same.
    spacing_mm = (1.0,) * len(card.image.axes)
    label = 0 if family.class_input(card) == "given" else None
    items = [family.Conditions(text.clone(), False, label, spacing_mm) for _ in range(settings.batch_size)]
    plan = family.prepare(
        card, denoiser, items, timesteps=settings.timesteps, guidance_scales=settings.guidance_scales,
        null_text=text[:1],
    )  # fmt: skip
    z = torch.zeros(settings.batch_size, *card.latent_shape, dtype=parameter.dtype, device=parameter.device)
    latent = z[:1].to(next(autoencoder.parameters()).dtype)
    return {
        "adapter": count_flops(plan.run_adapter) // settings.batch_size,
        **{
            kind: count_flops(partial(plan.predict, z, entries[0])) // settings.batch_size
            for kind, entries in settings.kinds_of_step.items()
        },
        "decode": count_flops(lambda: family.decode_latent(card, autoencoder, latent)),
    }

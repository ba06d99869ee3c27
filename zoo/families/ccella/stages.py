"""What CCELLA does at each stage: sequences through the autoencoder, conditions into the denoiser.

Shapes: images B C X Y Z with one channel per MRI sequence, latents B (C*4) x y z, text L W (tokens, width).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...card import Card
from ...errors import CardError
from .autoencoder import Autoencoder
from .decode_plans import DecodePlan, plan_decode
from .denoiser import CLASS_SCALE, CcellaDenoiser
from .graphs import CompiledAutoencoder
from .slabs import decode_in_slabs

# A part as PyTorch has it, or as another runtime executes it.
AnyAutoencoder = Autoencoder | CompiledAutoencoder
# Enough for one sequence of 256x256x128 at a time in bf16, and in slabs in fp32. Fixed, not what happens to be free, so
# that a run can be repeated bit by bit.
DECODE_MEMORY_BYTES = 8 * 2**30


def encode_image(card: Card, autoencoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of each sequence, encoded on its own and concatenated on channels in the card's order.

    Args:
        card: The model.
        autoencoder: Its autoencoder.
        x: Images in 0..1, B C X Y Z.

    Returns:
        Mean and standard deviation, each B (C*c) x y z, unscaled.
    """
    assert isinstance(autoencoder, AnyAutoencoder)
    moments = [autoencoder.encode_moments(x[:, c : c + 1]) for c in range(x.shape[1])]
    return torch.cat([mean for mean, _ in moments], 1), torch.cat([sigma for _, sigma in moments], 1)


def decode_latent(card: Card, autoencoder: nn.Module, z: Tensor, *, memory_bytes: int = DECODE_MEMORY_BYTES) -> Tensor:
    """Images of latents in the autoencoder's own units.

    Each item is decoded on its own, so that memory does not grow with the batch and an item's result does not depend on
    its neighbours. What fits into the memory decides whether its sequences go together, one by one, or in slabs.

    Args:
        card: The model.
        autoencoder: Its autoencoder.
        z: Latents, B (C*c) x y z, already divided by the latent scale.
        memory_bytes: What decoding may take beside the weights; another runtime than PyTorch takes what it takes.

    Returns:
        Images in 0..1, B C X Y Z.

    Raises:
        InputError: The memory does not suffice.
    """
    assert isinstance(autoencoder, AnyAutoencoder)
    each = card.latent.channels_per_image_channel
    sequences = z.shape[1] // each
    # Slabs keep nothing for a backward pass.
    plan = DecodePlan(1, None, 0)
    if isinstance(autoencoder, Autoencoder) and not torch.is_grad_enabled():
        plan = plan_decode(autoencoder, z.shape[2:], sequences, memory_bytes)
    images = []
    for item in z:
        parts = item.unflatten(0, (sequences, each)).split(plan.batch)
        decoded = [_decode(autoencoder, part, plan.planes) for part in parts]
        images.append(torch.cat(decoded).flatten(0, 1))
    return torch.stack(images).clamp(0.0, 1.0)


def _decode(autoencoder: AnyAutoencoder, z: Tensor, planes: int | None) -> Tensor:
    if planes is None or not isinstance(autoencoder, Autoencoder):
        x: Tensor = autoencoder.decode(z)
        return x
    return decode_in_slabs(autoencoder, z, planes)


def _scale(card: Card, z: Tensor) -> Tensor:
    if card.latent.scale is None:
        raise CardError(
            f"Model {card.id} has no latent.scale, so its latents cannot be scaled.",
            "The scale is computed and saved when its denoiser is trained: use a trained model folder.",
        )
    scale = torch.tensor(card.latent.scale, dtype=z.dtype, device=z.device)
    scale = scale.repeat_interleave(card.latent.channels // len(scale))
    return scale.view(1, -1, *[1] * (z.ndim - 2))


def scale_latent(card: Card, z: Tensor) -> Tensor:
    """Latents B C ... brought to unit standard deviation per sequence; CardError when the card has no scale."""
    return z * _scale(card, z)


def unscale_latent(card: Card, z: Tensor) -> Tensor:
    """Inverse of `scale_latent`."""
    return z / _scale(card, z)


def pad_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks embedded texts of different lengths.

    Args:
        texts: Each L_i W.

    Returns:
        Text B L W padded with zeros, and a mask B L that is True at real tokens.
    """
    padded = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    lengths = torch.tensor([len(text) for text in texts], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def training_forward(denoiser: nn.Module, z_t: Tensor, t: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One training evaluation of adapter and U-Net together.

    Args:
        denoiser: The denoiser, possibly wrapped for parallel training.
        z_t: Noisy scaled latents, B C x y z.
        t: Timesteps, B.
        batch: `text` B L W, `mask` B L (True at real tokens), `spacing_mm` B A, `class_label` B (-1 where unknown,
            which a denoiser that is given the class does not take).

    Returns:
        The prediction B C x y z and the class logits B K.
    """
    network = getattr(denoiser, "module", denoiser)
    assert isinstance(network, CcellaDenoiser)
    class_input = None
    if network.config.class_input == "given":
        class_input = nn.functional.one_hot(batch["class_label"], 2).to(z_t) * CLASS_SCALE
    return denoiser(z_t, t, batch["text"], batch["mask"], batch["spacing_mm"], class_input)

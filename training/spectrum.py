"""How the channels of a latent are weighed against each other before noise is added.

White noise drowns every latent channel alike. In images the coarse structure carries most of the variance, so that it
emerges first when noise is taken away, and the details follow. Latents whose channels were brought to one size have
lost that order. It comes back when each channel is scaled by what it does to the image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..zoo.card import Card
from ..zoo.family import load_family
from .latents import LatentMoments, LatentSet

# Exams on which the decoder's response is measured; it hardly differs between exams.
PROBES = 4
# Size of the disturbance in standard deviations of the channel.
DISTURBANCE = 0.5


@torch.no_grad()
def image_response(
    card: Card, autoencoder: nn.Module, items: LatentSet, indices: Sequence[int], moments: LatentMoments,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Root mean square change of the decoded image per unit of white disturbance of each latent channel.

    Args:
        card: The model.
        autoencoder: Its autoencoder.
        items: The latents.
        indices: Of the training items.
        moments: Of the training latents.
        device: Where to compute.

    Returns:
        float64 [C], one value per latent channel, all image channels together.
    """
    family, each = load_family(card.family), card.latent.channels_per_image_channel
    groups = card.latent.channels // each
    size = (moments.variance.sqrt() * DISTURBANCE).float().to(device)
    generator = torch.Generator().manual_seed(0)
    autoencoder = autoencoder.to(device)
    squares = torch.zeros(groups, each, dtype=torch.float64)
    chosen = indices[:PROBES]
    for index in chosen:
        z = items[index].mean[None].to(device)
        plain = family.decode_latent(card, autoencoder, z)
        noise = torch.randn(z.shape[1:], generator=generator).to(device)
        for place in range(each):
            # The image channels are decoded apart, so one channel of each can be disturbed at once.
            disturbed = z.clone()
            for channel in range(place, card.latent.channels, each):
                disturbed[0, channel] += size[channel] * noise[channel]
            change = (family.decode_latent(card, autoencoder, disturbed) - plain).double().square()
            squares[:, place] += change.flatten(2).mean(2)[0].cpu()
    return (squares / len(chosen)).sqrt().flatten() / size.double().cpu()

"""An optional patch discriminator beside the autoencoder."""

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional


class Adversary(nn.Module):
    """Judges patches of images; hinge losses as in Esser et al. 2021, "Taming transformers".

    Args:
        spatial_dims: Axes of the image.
        channels: Width of the first layer.
        layers: Strided layers.
    """

    def __init__(self, spatial_dims: int, channels: int, layers: int) -> None:
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        super().__init__()
        # Instance normalisation: batch statistics would depend on how a batch is shared between processes.
        self.network = PatchDiscriminator(
            spatial_dims=spatial_dims, channels=channels, in_channels=1, num_layers_d=layers, norm="INSTANCE"
        )

    def verdict(self, x: Tensor) -> Tensor:
        """What the autoencoder pays for images that look false; the discriminator gets no gradient from it."""
        frozen = {name: value.detach() for name, value in self.network.state_dict(keep_vars=True).items()}
        scores: Tensor = functional_call(self.network, frozen, (x,))[-1]
        return -scores.mean()

    def loss(self, true: Tensor, false: Tensor) -> Tensor:
        """What the discriminator pays; the images get no gradient from it."""
        right: Tensor = self.network(true.detach())[-1]
        wrong: Tensor = self.network(false.detach())[-1]
        return 0.5 * (functional.relu(1.0 - right).mean() + functional.relu(1.0 + wrong).mean())

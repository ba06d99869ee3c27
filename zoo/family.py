"""What a family of models provides. A family is a package under `families/` named in its cards."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .card import Card, Part
from .errors import CardError
from .monai_parts import import_monai

if TYPE_CHECKING:
    import torch


class Plan(Protocol):
    """A batch ready to be denoised; what does not depend on the latents is computed for many timesteps at once."""

    @property
    def class_probability(self) -> "torch.Tensor":
        """Probability of class 1 for each item, averaged over the timestep table; shape B."""
        ...

    def run_adapter(self) -> None:
        """All of the work that does not depend on the latents, as the sampling loop does it; for measurements."""
        ...

    def predict(self, z: "torch.Tensor", step: int) -> "torch.Tensor":
        """The network's output for noisy latents `z` at entry `step` of the timestep table."""
        ...


class Family(Protocol):
    """The functions of a family's package; shapes are B C and then the image's axes."""

    def build(self, part: Part) -> "torch.nn.Module": ...

    def class_input(self, card: Card) -> str: ...

    def encode_image(
        self, card: Card, autoencoder: "torch.nn.Module", x: "torch.Tensor"
    ) -> "tuple[torch.Tensor, torch.Tensor]": ...

    def decode_latent(
        self, card: Card, autoencoder: "torch.nn.Module", z: "torch.Tensor", *, memory_bytes: int = ...
    ) -> "torch.Tensor": ...

    def scale_latent(self, card: Card, z: "torch.Tensor") -> "torch.Tensor": ...

    def unscale_latent(self, card: Card, z: "torch.Tensor") -> "torch.Tensor": ...

    def prepare(
        self,
        card: Card,
        denoiser: "torch.nn.Module",
        conditions: Sequence[Any],
        *,
        timesteps: Sequence[int],
        guidance_scales: Sequence[float],
        null_text: "torch.Tensor",
        former: Plan | None = None,
    ) -> Plan: ...

    def training_forward(
        self,
        denoiser: "torch.nn.Module",
        z_t: "torch.Tensor",
        t: "torch.Tensor",
        batch: "Mapping[str, torch.Tensor]",
    ) -> "tuple[torch.Tensor, torch.Tensor]": ...

    def recomputed_blocks(self, network: "torch.nn.Module") -> "Sequence[torch.nn.Module]": ...

    def sharded_blocks(self, denoiser: "torch.nn.Module") -> "Sequence[torch.nn.Module]": ...


def family_names() -> list[str]:
    """The families this package has."""
    folder = Path(__file__).parent / "families"
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def load_family(name: str) -> Any:
    """Imports a family's package.

    Returns:
        The module; it provides what `Family` lists.

    Raises:
        CardError: There is no such family.
    """
    if name not in family_names():
        raise CardError(f"There is no family {name!r}.", f"The families are: {', '.join(family_names())}.")
    import_monai()
    return importlib.import_module(f".families.{name}", __package__)

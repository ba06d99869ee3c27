"""Random flips, rotations, translations and zooms of volumes, drawn from one generator per item."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How volumes are varied; each kind happens with the same probability, on its own.

    Args:
        probability: Of each kind, 0..1.
        max_rotation_deg: Largest rotation about z, either way.
        max_translation: Largest shift along x, y, z in voxels, either way.
        zoom: Smallest and largest magnification.
    """

    probability: float
    max_rotation_deg: float
    max_translation: Sequence[float]
    zoom: Sequence[float]

    def apply(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Varies one volume; what comes in from outside has each channel's lowest value, which is its background.

        Args:
            x: float32 [C, X, Y, Z].
            generator: On the CPU. The same draws are made whatever they come to.

        Returns:
            A volume of the same shape, interpolated once.
        """
        chosen = (torch.rand(4, generator=generator) < self.probability).tolist()
        spread = (2.0 * torch.rand(4, generator=generator) - 1.0).tolist()
        share = float(torch.rand((), generator=generator))
        if chosen[0]:
            x = x.flip(1)
        if not any(chosen[1:]):
            return x
        angle = math.radians(self.max_rotation_deg * spread[0]) if chosen[1] else 0.0
        shift = [
            limit * part if chosen[2] else 0.0 for limit, part in zip(self.max_translation, spread[1:], strict=True)
        ]
        zoom = self.zoom[0] + (self.zoom[1] - self.zoom[0]) * share if chosen[3] else 1.0
        return transform(x, angle_rad=angle, shift=shift, zoom=zoom)


def transform(x: Tensor, *, angle_rad: float, shift: Sequence[float], zoom: float) -> Tensor:
    """Rotates a volume about z, magnifies it, then shifts it, around its middle.

    Args:
        x: float32 [C, X, Y, Z].
        angle_rad: From the x axis towards the y axis.
        shift: Along x, y, z in voxels.
        zoom: Above 1 magnifies.

    Returns:
        float32 [C, X, Y, Z], linearly interpolated.
    """
    sizes = torch.tensor(x.shape[1:], dtype=torch.float64)
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    # Where in the old volume a voxel of the new one comes from, in voxels from the middle.
    inverse = torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64) / zoom
    offset = -inverse @ torch.tensor(list(shift), dtype=torch.float64)
    # grid_sample counts -1..1 from edge to edge and names the last axis first.
    matrix = inverse * sizes[None, :] / sizes[:, None]
    theta = torch.cat([matrix, (2.0 * offset / sizes)[:, None]], dim=1)
    theta = torch.cat([theta[:, :3].flip(0, 1), theta[:, 3:].flip(0)], dim=1).float()
    lowest = x.amin(dim=(1, 2, 3), keepdim=True)
    grid = functional.affine_grid(theta[None], [1, *x.shape], align_corners=False)
    return functional.grid_sample((x - lowest)[None], grid, align_corners=False)[0] + lowest

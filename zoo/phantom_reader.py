"""The reader for prompt fidelity: a small segmentation network that has seen phantoms only, no generated image.

Its weights ship with the package; `bench/reader.py` trains them again.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .card import FileRef
from .loading import find_file
from .monai_parts import import_monai

if TYPE_CHECKING:
    from torch import Tensor, nn

# The reader looks at pairs of pixels: voxels of 3 mm along each axis are enough for lesions of 7 mm and more, at a
# quarter of the work.
POOL = 2
WEIGHTS = FileRef(
    path="bundled/phantom-reader.safetensors",
    repo=None,
    revision=None,
    sha256="9b93ca2b6d4ef11e33b9a7a420d1306b8848acb8f5540fe0cee7751ec29cb1aa",
    size=None,
)


def build_reader() -> "nn.Module":
    """Three pooled sequences B 3 x y z in 0..1 to five class scores; about 0.3 M parameters."""
    import_monai()
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=3, in_channels=3, out_channels=5, channels=(16, 32, 48, 64), strides=(2, 2, 2), num_res_units=1,
        norm=("instance", {"affine": True}),
    )  # fmt: skip


def load_reader(path: Path | None = None) -> "nn.Module":
    """The reader with its weights.

    Args:
        path: A safetensors file; None takes the one that ships, checked against its digest.

    Raises:
        WeightsMissingError, DigestMismatchError: As `zoo.loading.find_file`.
    """
    from safetensors.torch import load_file

    found = find_file(WEIGHTS, Path(__file__).parent, "The phantom reader") if path is None else path
    reader = build_reader()
    reader.load_state_dict({name: value.float() for name, value in load_file(found).items()}, strict=True)
    return reader.eval().requires_grad_(False)


def pool(image: "Tensor") -> "Tensor":
    """Means of POOL x POOL pixels in each axial slice, C x y z."""
    from torch.nn import functional

    return functional.avg_pool3d(image, (POOL, POOL, 1))


def segment(reader: "nn.Module", image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the reader sees in an exam, at its own resolution; voxels are POOL times as wide along x and y.

    Args:
        reader: From `load_reader`.
        image: t2w, hbv and adc in 0..1, [3, x, y, z].

    Returns:
        Class probabilities [5, x / POOL, y / POOL, z] and the pooled adc.
    """
    import torch

    with torch.no_grad():
        pooled = pool(torch.from_numpy(image).float())
        return reader(pooled[None]).softmax(1)[0].numpy(), pooled[2].numpy()

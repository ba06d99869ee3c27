"""From an extractor's card to something that turns images into features."""

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...imaging.atomic import write_bytes
from ..errors import CardError
from ..loading import find_file, sha256_file
from ..lock import hold_pins
from .card import ExtractorCard
from .pyramid import pyramid_features

if TYPE_CHECKING:
    import torch

DEFAULT_EXTRACTOR = "pyramid"


@dataclass(frozen=True)
class Extractor:
    """An extractor that is ready.

    Attributes:
        card: What it is.
        sha256: Digest of its weights as they were read; None where it has none.
        extract: Images in 0..1, [n, x, y, z] or [n, row, column], to features [n, d] in float64.
    """

    card: ExtractorCard
    sha256: str | None
    extract: Callable[[np.ndarray], np.ndarray]

    def describe(self) -> dict[str, Any]:
        """What a result has to name to be repeated; the revision is the card's, or the one of the first pull."""
        return {
            "extractor": self.card.id,
            "sha256": self.sha256,
            "revision": hold_pins(self.card.files[0]).revision if self.card.files else None,
            "preprocessing": self.card.preprocessing,
        }


def load_extractor(card: ExtractorCard, *, device: str = "cpu") -> Extractor:
    """Builds an extractor and loads its weights, every name and shape required to match.

    Args:
        card: An extractor.
        device: Where its network runs.

    Raises:
        WeightsMissingError, DigestMismatchError: As `zoo.loading.find_file`.
        CardError: The weights do not fit, or cannot be read without executing what they hold.
    """
    if card.architecture == "pyramid":
        return Extractor(card, None, pyramid_features)
    from .networks import ARCHITECTURES

    if card.architecture not in ARCHITECTURES:
        raise CardError(
            f"Extractor {card.id} has the unknown architecture {card.architecture!r}.",
            f"There are: pyramid, {', '.join(ARCHITECTURES)}.",
        )
    build, rename, prepare = ARCHITECTURES[card.architecture]
    path = find_file(
        card.files[0], card.directory, f"Extractor {card.id}", f"With network access run: ccella zoo pull {card.id}"
    )
    digest = sha256_file(path)
    network = build()
    state = {rename(key): value for key, value in read_weights(path, digest).items()}
    try:
        network.load_state_dict({key: state[key] for key in state if _is_trunk(key)}, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:400]
        raise CardError(f"{path} does not fit {card.id}: {detail}", "Fetch the file that the card names.") from error
    network = network.to(device).eval().requires_grad_(False)

    def extract(images: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(device)
            features: np.ndarray = network(prepare(x)).double().cpu().numpy()
        return features

    return Extractor(card, digest, extract)


def _is_trunk(key: str) -> bool:
    """Heads for segmentation or classification follow the trunk and are no part of the extractor."""
    return not key.startswith(("fc.", "conv_seg."))


def read_weights(path: Path, digest: str) -> "Mapping[str, torch.Tensor]":
    """The tensors of a weights file by name.

    A pickle is converted once: tensors are taken out without executing anything, and stored as safetensors in
    `$XDG_CACHE_HOME/ccella` (`~/.cache/ccella`) under the digest of the pickle.

    Args:
        path: `.safetensors`, or torch's own format.
        digest: SHA-256 of the file.

    Raises:
        CardError: It holds more than tensors.
    """
    from safetensors.torch import load_file, save

    if path.suffix == ".safetensors":
        return load_file(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ccella" / f"{digest}.safetensors"
    if not cache.is_file():
        write_bytes(cache, save(_unpickle(path)))
    return load_file(cache)


def _unpickle(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CardError(
            f"{path} cannot be read as tensors alone: {' '.join(str(error).split())[:200]}",
            "Fetch the file that the card names; nothing in it was executed.",
        ) from error
    state = document.get("state_dict", document) if isinstance(document, Mapping) else {}
    tensors = {
        str(key).removeprefix("module."): value.contiguous()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CardError(f"{path} holds no named tensors.", "Fetch the file that the card names.")
    return tensors

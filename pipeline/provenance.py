"""What a sidecar says of where an artefact came from."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.loading import part_digests

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

# What the numbers in an artefact may depend on.
LIBRARIES = ("torch", "diffusers", "monai", "transformers", "numpy", "nibabel", "safetensors")
# What the numbers of an evaluation depend on beside these.
STATISTICS = ("scipy", "scikit-learn")


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of ccella, Python, the LIBRARIES and more, without importing any of them."""
    from .. import __version__

    libraries = {name: version(name) for name in (*LIBRARIES, *more)}
    return {"ccella": __version__, "python": platform.python_version(), **libraries}


def model_entry(card: Card) -> dict[str, Any]:
    """What identifies a model's weights: id, Hub revision (None for local files) and SHA-256 of every file."""
    files = [file for part in reversed(list(card.parts.values())) for file in part.files]
    revisions = [file.revision for file in files if file.repo is not None]
    return {"id": card.id, "revision": revisions[0] if revisions else None, "files": part_digests(card)}


def licence_entry(card: Card) -> dict[str, Any]:
    """The licence of the weights, copied into sidecars."""
    return asdict(card.licence)


def execution_entry(runtime: "Runtime") -> dict[str, Any]:
    """What executed the networks: runtime, precision, device and library versions."""
    return {
        "runtime": runtime.name,
        "precision": runtime.precision,
        "device": str(runtime.device),
        **runtime.details,
        "versions": versions(),
    }


def check_same_model(recorded: Mapping[str, Any], card: Card, *, source: str, part: str | None = None) -> None:
    """Makes sure that a model is the one that a sidecar names.

    Args:
        recorded: The sidecar's `model`.
        card: The model at hand.
        source: The sidecar, for the message.
        part: Compare this part's files alone; None compares all.

    Raises:
        InputError: A file has another digest, or is missing on either side.
    """
    prefix = "" if part is None else f"{part}/"
    old = {name: digest for name, digest in dict(recorded.get("files", {})).items() if name.startswith(prefix)}
    new = {name: digest for name, digest in part_digests(card).items() if name.startswith(prefix)}
    different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if different:
        raise InputError(
            f"{source} was made with model {recorded.get('id')}, whose {different[0]} is not that of {card.id} here.",
            "Name the model it was made with: --model ID, or the folder it was trained in.",
        )

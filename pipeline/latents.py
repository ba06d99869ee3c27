"""Latents and text embeddings on disk, as safetensors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..imaging.atomic import write_bytes
from ..imaging.errors import InputError
from ..zoo.record import Record

TEXT_FOLDER = "text"


def latent_name(item_id: str) -> str:
    """File name of an item's latent."""
    return f"{item_id}_latent.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Writes tensors of one type, whole or not at all; the same tensors give the same bytes."""
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(stored))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; InputError where it is missing, cut or damaged."""
    remedy = "Make it again with --resume."
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", remedy) from error
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}.", remedy) from error


def read_latent(record: Record, shape: tuple[int, ...]) -> torch.Tensor:
    """Reads the latent of a record: what was sampled, or the mean of what was encoded.

    Args:
        record: A record of kind `latent`.
        shape: Shape that the model's latents have, C x y z.

    Returns:
        float32 tensor C x y z in the autoencoder's units.

    Raises:
        InputError: The record is of something else, or the file cannot be used.
    """
    if record.kind != "latent":
        raise InputError(f"{record.path} is a {record.kind}, not a latent.", "Give what `ccella encode` wrote.")
    tensors = read_tensors(record.path)
    name = "z" if "z" in tensors else "mean"
    if name not in tensors:
        raise InputError(f"{record.path} holds neither 'z' nor 'mean'.", "Give what `ccella encode` wrote.")
    z = tensors[name].float()
    if tuple(z.shape) != shape:
        raise InputError(
            f"{record.path} has shape {tuple(z.shape)}; the model's latents have {shape}.",
            "Decode it with its own model.",
        )
    if not bool(torch.isfinite(z).all()):
        raise InputError(f"{record.path} holds values that are not finite.", "Make it again.")
    return z


def text_path(text: str, encoder_digest: str) -> str:
    """Where the embedding of a text lies inside a run folder: stored once for a text and an encoder."""
    digest = hashlib.sha256(f"{text}{encoder_digest}".encode()).hexdigest()
    return f"{TEXT_FOLDER}/{digest[:16]}.safetensors"

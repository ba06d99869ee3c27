"""Decode: latents in, images out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..imaging.digests import digest_file
from ..imaging.errors import InputError
from ..imaging.names import check_id
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.record import Record
from ..zoo.runs import read_run
from .encode import ItemCallback
from .errors import FailureLog
from .images import Preview, image_names, write_images
from .latents import read_latent
from .provenance import check_same_model, execution_entry, licence_entry, model_entry
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

# What an image inherits from its latent.
INHERITED = (
    "prompt", "prompt_truncated", "conditions", "class", "class_probability", "seed", "sampler", "spacing_mm",
    "patient_id", "prompt_id", "meta",
)  # fmt: skip


def decode(
    latents: Iterable[Record] | Path,
    card: Card,
    *,
    autoencoder: torch.nn.Module,
    run: RunFolder,
    runtime: "Runtime",
    memory_bytes: int | None = None,
    on_item: ItemCallback | None = None,
) -> Iterator[Record]:
    """Decodes latents one by one, whether they were sampled or encoded from exams.

    Args:
        latents: Records of kind `latent`, or the folder of a run that wrote them.
        card: The model whose autoencoder made them.
        autoencoder: Its autoencoder.
        run: Where images go.
        runtime: Device and precision of the autoencoder.
        memory_bytes: What decoding may take, see `decode_images`.
        on_item: Called with an item's id when it is through: with None, or with what it failed of.

    Yields:
        One record of kind `volume` per channel of each item. An encoded exam gets back its own intensities and place.

    Raises:
        InputError: No latent can be used.
        ItemsFailedError: At the end, when some failed; the others are done.
        RunFolderError: The folder is full or not writable.
        CardError: The card's images cannot be written.
    """
    image_names(card, "")
    check_memory(card, autoencoder, memory_bytes, runtime)
    records = read_run(latents) if isinstance(latents, Path) else latents
    return _decode_all(records, card, autoencoder, run, runtime, memory_bytes, on_item)


def _decode_all(
    latents: Iterable[Record],
    card: Card,
    autoencoder: torch.nn.Module,
    run: RunFolder,
    runtime: "Runtime",
    memory_bytes: int | None,
    on_item: ItemCallback | None,
) -> Iterator[Record]:
    common = {"model": model_entry(card), "licence": licence_entry(card), **execution_entry(runtime)}
    log, preview = FailureLog(), Preview(run, card)
    for latent in latents:
        log.total += 1
        try:
            check_id(latent.id, str(latent.path))
            records = _decode_one(latent, card, autoencoder, run, runtime, common, memory_bytes)
        except (InputError, ArithmeticError) as error:
            log.add(latent.id, error)
            if on_item is not None:
                on_item(latent.id, error)
            continue
        for record in records:
            preview.add(record)
            yield record
        if on_item is not None:
            on_item(latent.id, None)
    preview.write()
    log.finish()


def _decode_one(
    latent: Record,
    card: Card,
    autoencoder: torch.nn.Module,
    run: RunFolder,
    runtime: "Runtime",
    common: dict[str, Any],
    memory_bytes: int | None,
) -> list[Record]:
    """The images of one latent, made or found done."""
    check_same_model(dict(latent.data.get("model", {})), card, source=str(latent.path), part="autoencoder")
    if not latent.path.is_file():
        raise InputError(f"The latent {latent.path} does not exist.", "Make it again with --resume.")
    parents = [{"path": latent.path.as_posix(), "sha256": digest_file(latent.path)}]
    done = run.find_done(latent.id, image_names(card, latent.id), {"parents": parents})
    if done is not None:
        run.keep(done)
        return done
    z = read_latent(latent, card.latent_shape)
    x = decode_images(card, autoencoder, z[None].to(runtime.device, runtime.dtype), memory_bytes)
    inherited = {key: latent.data[key] for key in INHERITED if key in latent.data}
    data = {"synthetic": bool(latent.data.get("synthetic", True)), **inherited, **common, "parents": parents}
    return write_images(
        run,
        card,
        latent.id,
        to_image(x[0]),
        affine=np.asarray(latent.data["affine"], dtype=np.float64),
        data=data,
        bounds=latent.data.get("intensity"),
    )


def check_memory(card: Card, autoencoder: torch.nn.Module | None, memory_bytes: int | None, runtime: "Runtime") -> None:
    """InputError where decoding the card's images needs more than the memory, or the runtime keeps to none."""
    if memory_bytes is not None and runtime.name != "torch":
        raise InputError(
            f"A memory for decoding was given, and runtime {runtime.name} keeps to none.",
            "Leave --memory out, or use --runtime torch.",
        )
    if autoencoder is not None and runtime.name == "torch":
        family = load_family(card.family)
        limit = family.DECODE_MEMORY_BYTES if memory_bytes is None else memory_bytes
        family.plan_decode(autoencoder, card.latent_shape[1:], len(card.image.channels), limit)


@torch.inference_mode()
def decode_images(
    card: Card, autoencoder: torch.nn.Module, z: torch.Tensor, memory_bytes: int | None = None
) -> torch.Tensor:
    """Images B C X Y Z of latents in the autoencoder's units.

    Args:
        card: The model.
        autoencoder: Its autoencoder.
        z: Latents, B C x y z.
        memory_bytes: What it may take beside the weights; the family's default when None.

    Raises:
        InputError: The memory does not suffice.
    """
    limit = {} if memory_bytes is None else {"memory_bytes": memory_bytes}
    x: torch.Tensor = load_family(card.family).decode_latent(card, autoencoder, z, **limit)
    return x


def to_image(x: torch.Tensor) -> np.ndarray:
    """float32 array of a decoded image; ArithmeticError where it is not finite (half precision may overflow)."""
    if not bool(torch.isfinite(x).all()):
        raise ArithmeticError("The autoencoder gave values that are not finite; try --precision fp32.")
    return x.float().cpu().numpy()

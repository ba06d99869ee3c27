"""Somebody else's checkpoint into a model folder: read in a process with limits, every name and shape checked."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from .card import Card, read_card
from .family import load_family
from .folder import write_model_folder
from .loading import find_file, sha256_file

IMPORTED_PARTS = ("denoiser", "autoencoder")
SPARE_BYTES = 2**30
SLOWEST_BYTES_PER_S = 5_000_000
LEAST_TIME_S = 120
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY")


@dataclass(frozen=True)
class Imported:
    """What an import came to.

    Attributes:
        card: Of the model folder.
        part: The part that the checkpoint held.
        left_out: Keys of the checkpoint that were not taken over, such as the optimizer's state.
    """

    card: Card
    part: str
    left_out: tuple[str, ...]


def import_checkpoint(
    source: Path, card: Card, out: Path, *, part: str | None = None, scale: Sequence[float] | None = None
) -> Imported:
    """Takes the weights of a checkpoint over into a model folder.

    The checkpoint is a state dict, or a dict with one under `unet_state_dict` (or another of
    `unpickling.WRAPPERS`) and the latent scale under `scale_factor`. Nothing in it is executed. A folder that already
    holds other parts of the same model keeps them.

    Args:
        source: .pt, .pth, .ckpt, .pkl or .safetensors; the content counts, not the ending.
        card: The model that the checkpoint is of.
        out: The model folder.
        part: `denoiser` or `autoencoder`; None finds out by the names.
        scale: Factors that bring the latents to unit standard deviation, one or one per sequence; None takes those of
            the checkpoint.

    Raises:
        InputError: The checkpoint holds code, cannot be read, or does not fit the model; `out` holds another model.
        CardError: The model has no such part.
    """
    if not source.is_file():
        raise InputError(f"The checkpoint {source} does not exist.", "Give a file.")
    base = _base_card(card, out)
    names = [part] if part else [name for name in IMPORTED_PARTS if name in card.parts]
    shapes = {name: expected_shapes(card, name) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".import-") as scratch:
        target = Path(scratch) / "weights.safetensors"
        found = _read_in_process(source, target, shapes)
        updates = _updates(found, card, source, scale)
        from safetensors.torch import load_file

        imported = write_model_folder(
            out, base, parts={found["part"]: load_file(target)}, copy_parts=_own_parts(base, found["part"], out),
            updates=updates,
        )  # fmt: skip
    return Imported(imported, found["part"], tuple(found["left_out"]))


def import_public(card: Card, out: Path) -> Iterator[Imported]:
    """Imports the checkpoints that a model's card names, as `ccella zoo pull` left them in the cache.

    Args:
        card: The model.
        out: The model folder.

    Yields:
        Each part as it is imported; those that have weights are left alone.

    Raises:
        WeightsMissingError, DigestMismatchError: A checkpoint is not in the cache, or not what is pinned.
        InputError: See `import_checkpoint`.
    """
    base = _base_card(card, out)
    for part in base.parts.values():
        if part.checkpoint is not None and not part.files:
            source = find_file(part.checkpoint, card.directory, f"Model {card.id}, part {part.name},")
            yield import_checkpoint(source, card, out, part=part.name)


def parse_factors(text: str) -> tuple[float, ...]:
    """Reads `1.05` or `1.05,0.98,1.1`. Raises `InputError` for anything but positive numbers."""
    try:
        factors = tuple(float(word) for word in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise InputError(
            f"The scale factor {text!r} is not a list of positive numbers.", "Write 1.05 or 1.05,0.98,1.1."
        )
    return factors


def expected_shapes(card: Card, part: str) -> dict[str, list[int]]:
    """Names and shapes of a part's tensors, found without giving them memory."""
    import torch

    described = card.part(part)
    if "start" in described.config:
        # How fresh weights are drawn changes no shape, and a start that computes cannot do without memory.
        described = replace(described, config={**described.config, "start": "random"})
    with torch.device("meta"):
        network = load_family(card.family).build(described)
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def _base_card(card: Card, out: Path) -> Card:
    """The card that already lies in `out`, so that a second import adds to the first."""
    if not (out / "card.toml").is_file():
        return card
    there = read_card(out / "card.toml")
    same = all(
        part in there.parts and there.parts[part].config == card.parts[part].config for part in card.parts
    )  # fmt: skip
    if there.id != card.id or not same:
        raise InputError(f"{out} already holds another model, {there.id}.", "Choose another folder with -o.")
    return there


def _own_parts(card: Card, imported: str, out: Path) -> list[str]:
    """Other parts that come along from a model folder elsewhere; those in `out` and on the Hub stay where they are."""
    if card.directory.resolve() == out.resolve():
        return []
    return [
        name
        for name, part in card.parts.items()
        if name != imported and part.files and all(file.repo is None for file in part.files)
    ]


def _read_in_process(source: Path, target: Path, shapes: Mapping[str, Mapping[str, list[int]]]) -> dict[str, Any]:
    """Has the checkpoint read by `unpickling.py`, and turns what it says into errors of ours."""
    size = source.stat().st_size
    # Four bytes a number; twice, since the tensors and the file's bytes are in memory together.
    expected = max(sum(4 * math.prod(shape) for shape in names.values()) for names in shapes.values())
    timeout_s = LEAST_TIME_S + size // SLOWEST_BYTES_PER_S
    request = {
        "source": str(source.resolve()),
        "target": str(target.resolve()),
        "parts": shapes,
        "memory_bytes": size + 3 * expected + SPARE_BYTES,
        "cpu_s": timeout_s,
    }
    environment = {
        name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _SECRETS)
    }
    try:
        process = subprocess.run(  # noqa: S603 - our own module, no shell
            [sys.executable, "-P", "-m", f"{__package__}.unpickling"],
            input=json.dumps(request).encode(), capture_output=True, timeout=timeout_s, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"The checkpoint {source} was not read within {timeout_s} s.", "Check where the file comes from."
        ) from error
    if process.returncode:
        last = process.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(
            f"Reading the checkpoint {source} ended with exit code {process.returncode}: {' '.join(last) or 'killed'}.",
            "Check the file, and that memory and disk suffice.",
        )
    found: dict[str, Any] = json.loads(process.stdout)
    if "error" in found:
        sentence, remedy = found["error"]
        raise InputError(f"The checkpoint {source} was refused: {sentence}.", remedy)
    return found


def _updates(found: Mapping[str, Any], card: Card, source: Path, scale: Sequence[float] | None) -> dict[str, Any]:
    """What the import changes in the card."""
    part = found["part"]
    origin: dict[str, Any] = {
        "imported_from": source.name, "sha256": sha256_file(source), "size": source.stat().st_size,
        "left_out": list(found["left_out"]),
    }  # fmt: skip
    updates: dict[str, Any] = {"parts": {part: {"note": f"imported from {source.name}."}}, "provenance": {part: origin}}
    if part != "denoiser":
        return updates
    steps = found["train_timesteps"]
    if steps is not None and steps != card.schedule.train_timesteps:
        raise InputError(
            f"The checkpoint {source} was trained with {steps} timesteps; {card.id} has "
            f"{card.schedule.train_timesteps}.",
            "Name a model with its schedule with --as.",
        )
    factors = list(scale) if scale is not None else found["scale_factor"]
    if factors is None:
        raise InputError(
            f"The checkpoint {source} has no scale_factor, without which its latents cannot be decoded.",
            "Give the factors it was trained with: --scale-factor A,B,C.",
        )
    sequences = len(card.image.channels)
    if len(factors) not in (1, sequences) or not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise InputError(
            f"The scale_factor {factors} is not 1 or {sequences} positive numbers.",
            "Give the factors it was trained with: --scale-factor A,B,C.",
        )
    updates["latent"] = {"scale": factors if len(factors) == sequences else factors * sequences}
    return updates

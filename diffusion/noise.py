"""Per-item noise: what an item looks like depends on its seed alone.

Every item owns its CPU generators, so neither the batch size nor the device nor the neighbours in a batch change
what is drawn. Seed 0 is a seed like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

MAX_SEED = 2**63 - 1


def _new_generator(seed: int) -> torch.Generator:
    _check_seed(seed)
    return torch.Generator(device="cpu").manual_seed(seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"A seed must lie between 0 and {MAX_SEED}, got {seed}.")


def draw_noise(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Draw the starting noise of one item.

    Args:
        seed: the item's seed, 0 .. 2**63 - 1.
        shape: shape of one item without a batch axis, such as (C, X, Y, Z).

    Returns:
        Standard normal float32 tensor of that shape, on the CPU.

    Raises:
        ValueError: if the seed is out of range or the shape is empty or has an axis without elements.
    """
    size = tuple(int(length) for length in shape)
    if not size or min(size) < 1:
        raise ValueError(f"The shape of an item's noise must have positive axes, got {size}.")
    return torch.randn(size, generator=_new_generator(seed), dtype=torch.float32, device="cpu")


def ancestral_generator(seed: int) -> torch.Generator:
    """Make the generator of the noise that a stochastic sampler adds to one item during sampling.

    It is a different stream from `draw_noise`: were both drawn from the same seed, the first added noise would equal
    the starting noise.

    Args:
        seed: the item's seed, 0 .. 2**63 - 1.

    Returns:
        A CPU generator, fresh for each call.

    Raises:
        ValueError: if the seed is out of range.
    """
    _check_seed(seed)
    digest = hashlib.sha256(f"ancestral noise of seed {seed}".encode()).digest()
    return _new_generator(int.from_bytes(digest[:8], "big") & MAX_SEED)


def seed_from_id(item_id: str) -> int:
    """Derive a seed from an item's id, the same on every machine and in every process.

    Args:
        item_id: the id; every character counts.

    Returns:
        The first 31 bits of the SHA-256 of the id's UTF-8 bytes.
    """
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8")).digest()[:4], "big") >> 1

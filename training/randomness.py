"""Which items a step sees and which random numbers it draws, as pure functions of the seed and the step.

Nothing is carried from one step to the next, so a resumed run draws what an unbroken one would, and an item of a batch
draws the same whatever the number of processes and micro-batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

# Separate streams, so that validation noise or initial weights never coincide with a training step's draws.
TRAINING, VALIDATION, NETWORK, ORDER, STEP = range(5)


def derive_seed(seed: int, *words: int) -> int:
    """A 63-bit seed from a run's seed and non-negative integers that say what it is for."""
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def item_generator(seed: int, stream: int, step: int, slot: int) -> torch.Generator:
    """The generator of one item of one step.

    Args:
        seed: Of the run.
        stream: TRAINING or VALIDATION.
        step: Optimizer step, from 0.
        slot: Place of the item in the step's whole batch, over all processes.

    Returns:
        A CPU generator.
    """
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, stream, step, slot))


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which epoch `epoch` visits `count` items: an int64 permutation."""
    return np.random.default_rng([seed, ORDER, epoch]).permutation(count)


def step_indices(seed: int, step: int, batch_size: int, count: int) -> list[int]:
    """The items of one step.

    Epochs follow one another without a gap, so a batch may hold the end of one and the start of the next, and a set
    smaller than the batch is used more than once.

    Args:
        seed: Of the run.
        step: Optimizer step, from 0.
        batch_size: Items per step, over all processes.
        count: Items of the training set.

    Returns:
        `batch_size` indices below `count`.

    Raises:
        ValueError: The training set is empty.
    """
    if count < 1:
        raise ValueError("There is no item to train on.")
    orders: dict[int, np.ndarray] = {}
    indices = []
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = epoch_order(seed, epoch, count)
        indices.append(int(orders[epoch][offset]))
    return indices


@contextmanager
def scoped_seed(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Seeds torch's own generators inside the block and gives them back their state after it.

    Initial weights and dropout have no generator argument; this reaches them and spares the caller's random state.
    """
    with torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]):
        torch.random.manual_seed(seed)
        yield

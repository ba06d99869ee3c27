"""How many items are denoised together: as many as fit into a memory."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..imaging.errors import InputError
from ..zoo.card import Card
from .footprint import RESERVED, estimate_sampling
from .sampler_settings import SampleSettings

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

# What a killed run loses at most; long before, a device has all the work that it can do at a time.
MOST_ITEMS = 64
# Of the memory that happens to be free; other programs, and embedded prompts, want some too.
USABLE_FRACTION = 0.9


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, PyTorch's unused reserve included; None where the system does not say."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    if device.type == "cpu":
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available)
    return None


@dataclass(frozen=True)
class BatchMemory:
    """Bytes that denoising takes beside the weights, what kernels reserve included.

    Attributes:
        stages: Of each stage what one item takes, and what each further one adds.
    """

    stages: tuple[tuple[int, int], ...]

    def needed(self, size: int) -> int:
        """Bytes for a batch: those of the stage that takes the most."""
        return max(first + (size - 1) * further for first, further in self.stages)


def estimate_batches(card: Card, settings: SampleSettings, runtime: "Runtime", tokens: int) -> BatchMemory:
    """What batches take, from the shapes of the tensors of one item and of two.

    Args:
        card: A model.
        settings: Timestep table and guidance.
        runtime: Device and precision.
        tokens: Of the longest prompt.
    """
    one, two = (estimate_sampling(card, replace(settings, batch_size=n), runtime.dtype, tokens) for n in (1, 2))
    reserved = RESERVED[runtime.device.type]
    return BatchMemory(
        tuple((round(reserved * one[stage]), round(reserved * (two[stage] - one[stage]))) for stage in one)
    )


def fit_batch_size(
    card: Card, settings: SampleSettings, runtime: "Runtime", *, n_items: int, tokens: int
) -> tuple[SampleSettings, str]:
    """Sets the batch size to what fits into `settings.memory_bytes`, else into the memory that is free.

    Call it when the networks are loaded: what is free then is free for the batch. With a memory given the result
    depends on the arguments alone; else on the machine, and the last digits of an item with it.

    Args:
        card: The model.
        settings: How to sample.
        runtime: What executes the denoiser.
        n_items: There is no larger batch than all items.
        tokens: Of the longest prompt.

    Returns:
        The settings with the batch size, and a sentence that says what was chosen.

    Raises:
        InputError: Not one item fits into the given memory, or it cannot be known what fits.
    """
    if runtime.name != "torch":
        raise InputError(
            f"What fits into memory with runtime {runtime.name} is not known.",
            "Give --batch-size a number, or use --runtime torch.",
        )
    given = settings.memory_bytes
    free = free_bytes(runtime.device)
    if given is None and free is None:
        raise InputError(
            f"How much memory of {runtime.device} is free is not known.", "Give --memory, or --batch-size a number."
        )
    limit = given if given is not None else int(USABLE_FRACTION * (free or 0))
    memory = estimate_batches(card, settings, runtime, tokens)
    if given is not None and memory.needed(1) > given:
        raise InputError(
            f"A memory of {given / 2**20:.2f} MB does not suffice to denoise one item of {card.id}.",
            f"Give --memory {-(-memory.needed(1) // 2**20)}MB or more, or use --precision bf16.",
        )
    sizes = range(1, min(n_items, MOST_ITEMS) + 1)
    size = max((size for size in sizes if memory.needed(size) <= limit), default=1)
    source = "--memory" if given is not None else f"nine tenths of what is free on {runtime.device}"
    sentence = (
        f"Batch size {size}: about {memory.needed(size) / 2**30:.2f} GiB beside the weights, of "
        f"{limit / 2**30:.2f} ({source})."
    )
    return replace(settings, batch_size=size), sentence

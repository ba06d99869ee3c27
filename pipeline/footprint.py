"""How much memory a model needs to sample, found from the shapes of its tensors without giving them memory."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..zoo.card import Card
from ..zoo.family import load_family
from .sampler_settings import SampleSettings

# Token features of a report of usual length.
TOKENS = 200
# What kernels reserve beside the tensors: measured on the CPU (14.6 GiB where tensors take 5.4), an allowance on GPUs.
RESERVED = {"cpu": 2.8, "cuda": 1.15, "mps": 1.15}


@dataclass(frozen=True)
class Footprint:
    """Bytes that sampling needs on the device, beside the text encoder, which may lie elsewhere.

    Attributes:
        weights: Of each part that runs on latents.
        activations: Most bytes of tensors that live at once, beside the weights, by stage. What a library reserves
            for itself comes on top.
    """

    weights: Mapping[str, int]
    activations: Mapping[str, int]

    @property
    def total(self) -> int:
        """All weights, and the stage that needs the most."""
        return sum(self.weights.values()) + max(self.activations.values())


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels of CPU and GPU have it: its weights are never in memory as a whole.

    Tensors without memory would otherwise take the path that multiplies the weights out.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, _, value = _order_attention(*args, **(kwargs or {}))
            return torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        return func(*args, **(kwargs or {}))


def _order_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tensors of an attention, however they were named in its call."""
    return query, key, value


class _LiveBytes(TorchDispatchMode):
    """Follows the storages of tensors that operations make, from the first use to the last reference."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self._seen = {id(tensor.untyped_storage()) for tensor in known}
        # An id is unique only as long as its object lives.
        self._held = [tensor.untyped_storage() for tensor in known]
        self._live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def count_peak(compute: Callable[[], Any], *, known: list[torch.Tensor]) -> int:
    """Most bytes that live at once while `compute` runs, beside the tensors in `known`; see `_LiveBytes`."""
    with torch.no_grad(), _LiveBytes(known) as live:
        compute()
    return live.peak


def estimate_footprint(card: Card, settings: SampleSettings, dtype: torch.dtype) -> Footprint:
    """What sampling with a model needs in PyTorch, whether or not its weights are here.

    Args:
        card: A model that makes images.
        settings: Timestep table, guidance and batch size.
        dtype: Number format of weights and activations.
    """
    family = load_family(card.family)
    denoiser, autoencoder = (_build_empty(card, name, dtype) for name in ("denoiser", "autoencoder"))
    with torch.device("meta"), _FusedAttention():
        z = torch.zeros(1, *card.latent_shape, dtype=dtype)
        decode = count_peak(lambda: family.decode_latent(card, autoencoder, z), known=_tensors(autoencoder))
    weights = {
        name: sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize
        for name, network in (("denoiser", denoiser), ("autoencoder", autoencoder))
    }
    return Footprint(weights, {**_count_sampling(card, denoiser, settings, TOKENS), "decode": decode})


def estimate_sampling(card: Card, settings: SampleSettings, dtype: torch.dtype, tokens: int) -> dict[str, int]:
    """Most bytes of tensors that live at once while a batch is denoised, beside the weights: "adapter" and "step".

    Args:
        card: A model, whether or not its weights are here.
        settings: Timestep table, guidance and batch size.
        dtype: Number format of weights and activations.
        tokens: Of each prompt.
    """
    return _count_sampling(card, _build_empty(card, "denoiser", dtype), settings, tokens)


def _count_sampling(card: Card, denoiser: torch.nn.Module, settings: SampleSettings, tokens: int) -> dict[str, int]:
    family, dtype = load_family(card.family), next(denoiser.parameters()).dtype
    with torch.device("meta"), _FusedAttention():
        # Prompts of their own: the adapter works once for those that are the same.
        texts = [torch.zeros(tokens, family.text_width(card), dtype=dtype) for _ in range(settings.batch_size)]
        label = 0 if family.class_input(card) == "given" else None
        items = [family.Conditions(text, False, label, (1.0,) * len(card.image.axes)) for text in texts]
        z = torch.zeros(settings.batch_size, *card.latent_shape, dtype=dtype)
        # The adapter takes the table in windows that are alike: two of them tell what all of them need.
        timesteps = settings.timesteps[: 2 * family.TIMESTEPS_AT_ONCE]
        plan = family.prepare(
            card, denoiser, items, timesteps=timesteps, guidance_scales=[settings.guidance_scale] * len(timesteps),
            null_text=torch.zeros(1, family.text_width(card), dtype=dtype),
        )  # fmt: skip
        return {
            "adapter": count_peak(plan.run_adapter, known=_tensors(denoiser)),
            "step": count_peak(lambda: plan.predict(z, 0), known=_tensors(denoiser)),
        }


def _tensors(network: torch.nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def _build_empty(card: Card, name: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part without memory for its weights, and so without the start that training would give them."""
    part = card.part(name)
    if "start" in part.config:
        part = replace(part, config={**part.config, "start": "random"})
    with torch.device("meta"):
        network: torch.nn.Module = load_family(card.family).build(part)
        network._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype))
    return network.eval().requires_grad_(False)

"""Prompts as the model's text encoder embeds them, each once while it is among the last few."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..zoo.families.ccella.text import TextEncoder

# Seeds and classes of one prompt follow one another, so a few suffice; of the published size 16 take 128 MiB in fp32.
KEPT = 16


@dataclass(frozen=True, eq=False)
class Embedding:
    """A prompt's features, L W, and whether the encoder's window cut its beginning off."""

    features: torch.Tensor
    truncated: bool


class Embedder:
    """Embeds prompts. Not for several threads at a time: a tokenizer keeps its settings between calls.

    Args:
        encoder: The text encoder.
        dtype: Of the features.
        kept: How many prompts stay embedded; the one that was asked for longest ago goes first.
    """

    def __init__(self, encoder: "TextEncoder", dtype: torch.dtype, kept: int = KEPT) -> None:
        self._encoder = encoder
        self._dtype = dtype
        self._kept = kept
        self._last: OrderedDict[str, Embedding] = OrderedDict()

    @cached_property
    def null(self) -> torch.Tensor:
        """The embedded empty prompt, for the unconditional branch."""
        return self._encode("")

    def embed(self, text: str) -> Embedding:
        """A prompt's embedding: the same object for the same text while it is kept."""
        if text not in self._last:
            self._last[text] = Embedding(self._encode(text), self._encoder.count_tokens(text).truncated)
            if len(self._last) > self._kept:
                self._last.popitem(last=False)
        self._last.move_to_end(text)
        return self._last[text]

    def _encode(self, text: str) -> torch.Tensor:
        features: torch.Tensor = self._encoder.encode([text])[0]
        return features.to(self._dtype)

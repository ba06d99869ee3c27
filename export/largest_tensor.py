"""The largest tensor of a graph, found from shapes alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.graphs import Graph


class _LargestTensor(TorchDispatchMode):
    """Remembers the most elements that a result of an operation has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def count_largest_tensor(card: Card, graph: Graph, sizes: Mapping[str, int]) -> int:
    """Elements of the largest tensor between a graph's operations, attention weights included.

    Args:
        card: The model.
        graph: One of its graphs.
        sizes: Size of each of its axes.
    """
    with torch.device("meta"):
        module = graph.module(load_family(card.family).build(card.part(graph.part))).eval()
        inputs = [
            torch.zeros(
                [size if isinstance(size, int) else sizes[size] for size in row.shape],
                dtype=torch.int64 if row.kind == "timestep" else torch.float32,
            )
            for row in graph.inputs
        ]
    with torch.no_grad(), torch.device("meta"), _LargestTensor() as largest:
        module(*inputs)
    return max(largest.elements, *(tensor.numel() for tensor in inputs))

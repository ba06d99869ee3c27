"""Parity: an exported graph against PyTorch in fp32 on the same random inputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..zoo.card import Card
from ..zoo.graphs import Axis, Graph, GraphInput
from ..zoo.loading import load_part
from .devices import PRECISIONS, forbid_tf32
from .onnx_net import OnnxNet

# Largest difference from PyTorch in fp32, as a share of the largest output.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# The largest shapes are compared up to so many times the best size along each axis: further out a comparison would take
# memory and hours that the work at the best shape says nothing of.
MAX_GROWTH = 2


class ParityError(RuntimeError):
    """An exported graph computes something else than PyTorch; it was not written."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def draw_inputs(graph: Graph, sizes: Mapping[str, int], *, train_timesteps: int, seed: int) -> dict[str, Tensor]:
    """Random inputs of a graph in float32 (timesteps int64).

    Args:
        graph: The graph.
        sizes: Size of every dynamic axis.
        train_timesteps: Timesteps are below this.
        seed: Of the values.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(row: GraphInput) -> Tensor:
        shape = [size if isinstance(size, int) else sizes[size] for size in row.shape]
        if row.kind == "timestep":
            return torch.randint(train_timesteps, shape, generator=generator)
        if row.kind == "normal":
            return torch.randn(shape, generator=generator)
        values = torch.rand(shape, generator=generator)
        return {"unit": values, "percent": 100 * values / values.sum(-1, keepdim=True), "spacing_mm": 0.3 + 3 * values}[
            row.kind
        ]

    return {row.name: draw(row) for row in graph.inputs}


def cast_inputs(graph: Graph, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs in the types that the graph takes in a precision."""
    own = {row.name for row in graph.inputs if row.kind in ("timestep", "spacing_mm")}
    return {name: value if name in own else value.to(dtype) for name, value in inputs.items()}


def train_timesteps(card: Card) -> int:
    """Timesteps of training; a classifier has none, and no graph that takes them."""
    return card.generation.schedule.train_timesteps if card.generation is not None else 1


def choose_sizes(axes: Mapping[str, Axis]) -> list[dict[str, int]]:
    """The sizes of the axes at which a graph is compared, none of them twice.

    The smallest ones as a batch of two; the best ones and the largest, but no axis beyond MAX_GROWTH times its best, as
    a single item.
    """
    smallest = {name: axis.minimum for name, axis in axes.items()}
    best = {name: axis.optimum for name, axis in axes.items()}
    largest = {name: min(axis.maximum, MAX_GROWTH * axis.optimum) for name, axis in axes.items()}
    chosen: list[dict[str, int]] = []
    for sizes, batch in ((smallest, 2), (best, 1), (largest, 1)):
        if "batch" in sizes:
            sizes["batch"] = batch
        if sizes not in chosen:
            chosen.append(sizes)
    return chosen


def compare(card: Card, graph: Graph, net: OnnxNet, precision: str) -> list[dict[str, Any]]:
    """Differences from PyTorch in fp32 at the sizes of `choose_sizes`, each with inputs of its own.

    Returns:
        For each comparison and output the sizes, the seed of the inputs, the output's name and the error: the largest
        difference as a share of the largest output, which is not finite where one of the two is not, or where PyTorch
        gives zeros alone.
    """
    forbid_tf32()
    reference = graph.module(load_part(card, graph.part, device=net.device)).eval()
    checks = []
    for seed, sizes in enumerate(choose_sizes(graph.axes), 1):
        drawn = draw_inputs(graph, sizes, train_timesteps=train_timesteps(card), seed=seed)
        inputs = {
            name: value.to(net.device) for name, value in cast_inputs(graph, drawn, PRECISIONS[precision]).items()
        }
        with torch.no_grad():
            expected = reference(*cast_inputs(graph, inputs, torch.float32).values())
        found = net(inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for name, value in zip(graph.outputs, expected, strict=True):
            difference = (found[name].float() - value).abs().max() / value.abs().max()
            checks.append({"sizes": sizes, "seed": seed, "output": name, "error": float(f"{float(difference):.3e}")})
    return checks


def find_largest_error(checks: Sequence[Mapping[str, Any]], limit: float, what: str) -> float:
    """The largest error of a comparison.

    Args:
        checks: See `compare`.
        limit: The largest that is allowed.
        what: What was compared, for the message.

    Raises:
        ParityError: An error is above the limit, or not finite.
    """
    remedy = "Use --precision fp32, and report it if that fails too."
    for check in checks:
        # Sought for first: a NaN compares as neither less nor more, and `max` may pass over it.
        if not math.isfinite(check["error"]):
            sizes = ", ".join(f"{name} {size}" for name, size in check["sizes"].items())
            raise ParityError(
                f"{what} cannot be compared with PyTorch: at {sizes} the {check['output']} of one of them is not "
                "finite, or zero throughout; it was not written.",
                remedy,
            )
    error = max(float(check["error"]) for check in checks)
    if error > limit:
        raise ParityError(
            f"{what} differs from PyTorch by {error:.1e} of the largest output, which is more than {limit:.0e}; it was "
            "not written.",
            remedy,
        )
    return error

"""ONNX Runtime against PyTorch on this machine's CPU: the U-Net step and the decode of the bundled model.

    python bench/onnx_runtime.py

Both run in one process with the same threads, in turn; the figures are medians. Parity is part of the export.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import report

from ccella.export.onnx_export import choose_graphs, choose_shapes, export_graph
from ccella.export.onnx_runtime import open_onnx_runtime
from ccella.export.parity import cast_inputs, draw_inputs
from ccella.export.placement import prepare_folder
from ccella.export.runtimes import choose_runtime
from ccella.zoo.registry import find_card

GRAPHS = {"denoiser": "U-Net step, guided (batch of 2)", "decoder": "decode of one sequence"}


def seconds(compute: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, used = time.perf_counter(), time.process_time()
    compute()
    return time.perf_counter() - wall, time.process_time() - used


@torch.no_grad()
def compare(folder: Path, name: str, repeats: int) -> list[tuple[str, object]]:
    card = find_card("ccella-pp/phantom")
    card = prepare_folder(card, folder)
    (graph,) = choose_graphs(card, [name], choose_shapes(card, None))
    record = export_graph(card, graph, device="cpu")
    runtime = open_onnx_runtime(card, "cpu", device="cpu", precision="fp32", graphs=[name])
    sizes = {key: axis.optimum for key, axis in graph.axes.items()}
    inputs = draw_inputs(graph, sizes, train_timesteps=card.schedule.train_timesteps, seed=1)
    module = graph.module(choose_runtime("torch", card, device="cpu", precision="fp32").load(card, graph.part)).eval()
    part = runtime.load(card, graph.part)
    net = part._nets[name]  # type: ignore[index, operator, union-attr]
    values = tuple(cast_inputs(graph, inputs, torch.float32).values())
    variants: dict[str, Callable[[], object]] = {"torch": lambda: module(*values), "onnx": lambda: net(inputs)}
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in variants}
    for _ in range(repeats + 1):
        for key, compute in variants.items():
            times[key].append(seconds(compute))
    wall = {key: statistics.median(pair[0] for pair in pairs[1:]) for key, pairs in times.items()}
    used = {key: statistics.median(pair[1] for pair in pairs[1:]) for key, pairs in times.items()}
    label = GRAPHS[name]
    return [
        (f"{label}: torch", f"{wall['torch']:.4f} s, {used['torch']:.4f} CPU s"),
        (f"{label}: ONNX Runtime", f"{wall['onnx']:.4f} s, {used['onnx']:.4f} CPU s"),
        (
            f"{label}: ONNX Runtime / torch",
            f"{wall['onnx'] / wall['torch']:.2f}, CPU {used['onnx'] / used['torch']:.2f}",
        ),
        (f"{label}: largest difference", f"{record.max_error:.1e} of the largest output"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=9, help="counted runs, after one that warms up")
    options = parser.parse_args()
    rows: list[tuple[str, object]] = [("threads", torch.get_num_threads())]
    with tempfile.TemporaryDirectory() as scratch:
        for name in GRAPHS:
            rows += compare(Path(scratch) / "model", name, options.n)
    report("onnx_runtime", rows)


if __name__ == "__main__":
    main()

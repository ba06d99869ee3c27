"""From an exported graph to an engine that agrees with PyTorch: found where it is stored, or built and compared."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..zoo.card import Card
from ..zoo.graphs import Graph
from ..zoo.loading import load_part
from .devices import PRECISIONS, forbid_tf32
from .errors import name_allocations
from .parity import TOLERANCES, cast_inputs, draw_inputs, find_largest_error, train_timesteps
from .records import GraphRecord
from .tensorrt_build import EngineKey, build_engine, check_elements, make_key, timing_cache_name
from .tensorrt_library import Gpu, check_gpu_precision, enter_gpu
from .tensorrt_net import TensorRTNet
from .tensorrt_plans import Engine, find_engine, hold_folder, write_engine

Outputs = dict[str, Tensor]


def obtain_engine(
    card: Card,
    graph: Graph,
    onnx_file: Path,
    record: GraphRecord,
    gpu: Gpu,
    say: Callable[[str], None] = lambda sentence: None,
) -> Engine:
    """The engine of a graph for this machine. Where none is stored it is built, compared with PyTorch, and kept.

    Args:
        card: The model.
        graph: One of its graphs.
        onnx_file: The exported graph.
        record: Its record.
        gpu: The GPU.
        say: Called with a sentence before the minutes that a build takes.

    Raises:
        InputError: The tensorrt package is missing, or it or the GPU cannot do this.
        ParityError: The engine computes something else than PyTorch; it is not kept.
        OutOfMemoryError: There is too little memory.
        OSError: The engine cannot be stored.
    """
    check_gpu_precision(record.precision, gpu)
    key = make_key(graph, record, gpu)
    engine, reason = find_engine(card, graph.name, key)
    if engine is not None:
        return engine
    check_elements(card, graph, key.profile)
    with hold_folder(card, say) as folder:
        # Another process may have built it meanwhile.
        engine, reason = find_engine(card, graph.name, key)
        if engine is not None:
            return engine
        say(f"Building the TensorRT engine of the {graph.name} in {record.precision} for {gpu.name}: {reason}.")
        data = build_engine(onnx_file, record, key, gpu, folder / timing_cache_name(key))
        checks = compare_engine(card, graph, data, record, key, gpu.device)
        limit = TOLERANCES[record.precision]
        error = find_largest_error(checks, limit, f"The TensorRT engine of the {graph.name} in {record.precision}")
        versions = {"tensorrt": key.tensorrt, "torch": torch.__version__}
        parity = {"tolerance": limit, "max_error": error, "checks": checks, "versions": versions}
        return write_engine(folder, graph.name, data, parity, key)


def compare_engine(
    card: Card, graph: Graph, plan: bytes, record: GraphRecord, key: EngineKey, device: torch.device
) -> list[dict[str, Any]]:
    """Differences of an engine from PyTorch in fp32 at the smallest, best and largest sizes of its profile.

    Returns:
        Entries as those of `parity.compare`.
    """
    sizes = choose_profile_sizes(key.profile)
    drawn = [
        cast_inputs(
            graph,
            draw_inputs(graph, each, train_timesteps=train_timesteps(card), seed=seed),
            PRECISIONS[record.precision],
        )
        for seed, each in enumerate(sizes, 1)
    ]
    # PyTorch first, and out of the GPU before the engine comes: the memory of both together need not be there.
    expected = _compute_expected(card, graph, drawn, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    net = TensorRTNet(plan, record, key.profile, device)
    checks = []
    for seed, (each, inputs, wanted) in enumerate(zip(sizes, drawn, expected, strict=True), 1):
        found = net(inputs)
        for name, value in wanted.items():
            # Without the GPU's other tensors, and on its stream: the copy waits for the engine.
            difference = (found[name].cpu().float() - value).abs().max() / value.abs().max()
            checks.append({"sizes": each, "seed": seed, "output": name, "error": float(f"{float(difference):.3e}")})
    return checks


def choose_profile_sizes(profile: Mapping[str, Mapping[str, int]]) -> list[dict[str, int]]:
    """The smallest, best and largest size of every axis together, none of them twice."""
    chosen: list[dict[str, int]] = []
    for which in ("minimum", "optimum", "maximum"):
        sizes = {name: axis[which] for name, axis in profile.items()}
        if sizes not in chosen:
            chosen.append(sizes)
    return chosen


def _compute_expected(card: Card, graph: Graph, drawn: list[dict[str, Tensor]], device: torch.device) -> list[Outputs]:
    """What PyTorch makes of each set of inputs in fp32."""
    forbid_tf32()
    what = f"PyTorch, computing what the engine of the {graph.name} is compared with"
    with enter_gpu(device), torch.no_grad(), name_allocations(what):
        reference = graph.module(load_part(card, graph.part, device=device)).eval()
        return [_run_singly(graph, reference, cast_inputs(graph, inputs, torch.float32), device) for inputs in drawn]


def _run_singly(graph: Graph, reference: torch.nn.Module, inputs: Outputs, device: torch.device) -> Outputs:
    """Outputs on the CPU, one item of the batch at a time: memory for one suffices, and none may change another."""
    parts: list[Outputs] = []
    for item in _split(graph, inputs):
        values = reference(*(value.to(device) for value in item.values()))
        values = values if isinstance(values, tuple) else (values,)
        parts.append({name: value.cpu() for name, value in zip(graph.outputs, values, strict=True)})
    return {name: torch.cat([part[name] for part in parts]) for name in graph.outputs}


def _split(graph: Graph, inputs: Outputs) -> Iterator[Outputs]:
    """The items of a batch; everything at once for a graph that has none."""
    if "batch" not in graph.axes:
        yield inputs
        return
    for i in range(len(next(iter(inputs.values())))):
        yield {name: value[i : i + 1] for name, value in inputs.items()}

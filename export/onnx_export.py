"""PyTorch to ONNX: each graph is exported, compared with PyTorch on random inputs, and written only if it agrees."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..imaging.atomic import atomic_path, remove_remains
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.graphs import Graph, ShapeRange
from ..zoo.loading import load_part, sha256_file
from .devices import PRECISIONS
from .onnx_net import OnnxNet
from .onnx_providers import choose_onnx_device, choose_provider, import_onnxruntime
from .parity import TOLERANCES, cast_inputs, compare, draw_inputs, find_largest_error, train_timesteps
from .records import FOLDER, GraphRecord, graph_weights, onnx_path, stem, write_record
from .scratch import scratch_folder

# One protobuf message holds 2 GiB at most; weights above this go into a file of their own.
EMBEDDED_BYTES = 1900 * 2**20
LIBRARIES = ("ccella", "torch", "onnx", "onnxscript")


def choose_graphs(card: Card, names: Sequence[str] | None, shapes: ShapeRange) -> list[Graph]:
    """The graphs called `names`, all of the model's when None.

    Raises:
        InputError: The model has no such graph.
    """
    known = {graph.name: graph for graph in load_family(card.family).graphs(card, shapes)}
    for name in names or ():
        if name not in known:
            raise InputError(f"Model {card.id} has no graph {name!r}.", f"Its graphs are: {', '.join(known)}.")
    return [graph for name, graph in known.items() if names is None or name in names]


def choose_shapes(card: Card, shapes: Sequence[Sequence[int]] | None) -> ShapeRange:
    """The image shapes a graph is to take: as given, or from half the card's to the card's own.

    Args:
        card: The model.
        shapes: Smallest, best and largest shape in voxels, or one shape alone; None for the default.

    Raises:
        InputError: A shape that the model cannot take, or three that are not in order.
    """
    multiple = load_family(card.family).shape_multiple(card)
    full = tuple(card.image.shape)
    if shapes is None:
        half = tuple(max(multiple, -(-size // (2 * multiple)) * multiple) for size in full)
        shapes = (tuple(min(a, b) for a, b in zip(half, full, strict=True)), full, full)
    low, best, high = (tuple(shape) for shape in (shapes if len(shapes) == 3 else [shapes[0]] * 3))
    for shape in (low, best, high):
        if len(shape) != len(full) or any(size < 1 or size % multiple for size in shape):
            raise InputError(
                f"Shape {','.join(map(str, shape))} does not fit model {card.id}.",
                f"Give {len(full)} sizes in voxels, each a multiple of {multiple}.",
            )
    if any(not a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
        raise InputError("The shapes are not in the order smallest, best, largest.", "Give --shape MIN:OPT:MAX.")
    if any(not a <= own <= c for a, own, c in zip(low, full, high, strict=True)):
        own = ",".join(map(str, full))
        raise InputError(
            f"The shapes leave out {own}, the only one that model {card.id} is used in.",
            f"Give a range that has it, such as --shape {own}",
        )
    return ShapeRange(low, best, high)


def check_export(precision: str, device: str) -> None:
    """Refuses what `export_graph` would refuse of its comparison, before any folder is made for it.

    Raises:
        InputError: The device is not there, or cannot compute in the precision.
    """
    _choose_checker(precision, choose_onnx_device(device))


def export_graph(
    card: Card,
    graph: Graph,
    *,
    precision: str = "fp32",
    folder: Path | None = None,
    tolerance: float | None = None,
    device: str = "auto",
    check: bool = True,
) -> GraphRecord:
    """Exports one graph, checks it, and writes file and record into a model folder's `onnx/`.

    Args:
        card: The model.
        graph: One of its graphs.
        precision: fp32, fp16 or bf16: of the weights and of what flows between layers.
        folder: The model folder; the card's own when None.
        tolerance: Largest difference as a share of the largest output; that of the precision when None.
        device: Where the two are compared; see `onnx_providers.choose_onnx_device`.
        check: Compare them. Without, the record says that they were not, and ONNX Runtime is not used: for what
            compares by itself, as engines of TensorRT are.

    Returns:
        The record.

    Raises:
        ParityError: The graph computes something else than PyTorch, or what is not finite. Nothing is written.
        OutOfMemoryError: ONNX Runtime has not enough memory for the comparison. Nothing is written.
        InputError: ONNX Runtime cannot execute the graph in this precision here. Nothing is written.
        WeightsMissingError, DigestMismatchError, CardError: See `zoo.loading.load_part`.
    """
    folder = card.directory if folder is None else folder
    where = choose_onnx_device(device) if check else torch.device("cpu")
    provider = _choose_checker(precision, where) if check else ""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    name = f"{stem(graph.name, precision)}.onnx"
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    # In the same file system, so that the finished files only need their final names.
    with scratch_folder(folder / FOLDER) as scratch:
        opset = _write_onnx(card, graph, precision, scratch / name)
        axes = {key: asdict(axis) for key, axis in graph.axes.items()}
        inputs = {row.name: row.shape for row in graph.inputs}
        checks: list[dict[str, Any]] = []
        error: float | None = None
        if check:
            net = OnnxNet(scratch / name, axes, provider=provider, device=where)
            checks = compare(card, graph, net, precision)
            error = find_largest_error(checks, limit, f"The ONNX {graph.name} in {precision}")
        digests = _place_files(scratch, onnx_path(folder, graph.name, precision))
    record = GraphRecord(
        graph=graph.name,
        precision=precision,
        files=digests,
        weights=graph_weights(card, graph.part),
        axes=axes,
        inputs=inputs,
        opset=opset,
        tolerance=limit,
        max_error=error,
        checks=checks,
        versions=_versions(with_runtime=check),
    )
    write_record(folder, record)
    return record


def _choose_checker(precision: str, device: torch.device) -> str:
    """The provider that executes the graph for the comparison."""
    provider = choose_provider("auto", device)
    if precision == "bf16" and provider == "cpu":
        raise InputError(
            "An export in bf16 is checked on a GPU: ONNX Runtime does not compute in it on a CPU.",
            "Use --precision fp32 or fp16, or export on a machine with an NVIDIA GPU.",
        )
    return provider


def _place_files(scratch: Path, graph: Path) -> dict[str, str]:
    """Gives finished files their final names, the graph itself last; their digests."""
    files = sorted(scratch.iterdir(), key=lambda path: path.name != graph.name)
    digests = {path.name: sha256_file(path) for path in files}
    for path in reversed(files):
        final = graph.with_name(path.name)
        remove_remains([final])
        with atomic_path(final) as temporary:
            path.replace(temporary)
    return digests


def _versions(*, with_runtime: bool) -> dict[str, str]:
    versions = {library: version(library) for library in LIBRARIES}
    # Two packages provide ONNX Runtime, so its name says nothing of which is installed.
    return versions | {"onnxruntime": import_onnxruntime().__version__} if with_runtime else versions


def _write_onnx(card: Card, graph: Graph, precision: str, path: Path) -> int:
    """Traces a graph with every dynamic axis open and stores it; gives the opset."""
    import onnx

    dtype = PRECISIONS[precision]
    module = graph.module(load_part(card, graph.part, dtype=dtype)).eval()
    # A size of one, be it at the network's coarsest level, would be taken for a constant.
    sizes = {name: max(axis.optimum, min(2 * axis.multiple, axis.maximum)) for name, axis in graph.axes.items()}
    drawn = draw_inputs(graph, sizes, train_timesteps=train_timesteps(card), seed=0)
    inputs = cast_inputs(graph, drawn, dtype)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(_dynamic_shapes(graph)),
        )
    assert program is not None
    proto = program.model_proto
    # What the graph holds, not what the module does: the adapter's shares the whole denoiser.
    held = (value.const_value for value in program.model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in held if tensor is not None) > EMBEDDED_BYTES:
        onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(proto, path)
    return int(next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")))


def _dynamic_shapes(graph: Graph) -> Iterator[dict[int, Any]]:
    """Per input the open axes for torch.export; an axis of one size stays closed."""
    dims = {}
    for name, axis in graph.axes.items():
        if axis.minimum < axis.maximum:
            dim = torch.export.Dim(f"{name}_", min=-(-axis.minimum // axis.multiple), max=axis.maximum // axis.multiple)
            dims[name] = dim * axis.multiple if axis.multiple > 1 else dim
    for row in graph.inputs:
        yield {i: dims[size] for i, size in enumerate(row.shape) if isinstance(size, str) and size in dims}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's warnings about libraries that are not needed off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

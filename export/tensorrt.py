"""The runtime that executes a model's parts as TensorRT engines, and the export that makes them beforehand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.errors import DigestMismatchError
from ..zoo.family import load_family
from ..zoo.graphs import Graph
from .devices import PRECISIONS
from .onnx_runtime import find_exported
from .placement import export_words
from .ranges import check_asked
from .records import GraphRecord, exported_precisions, onnx_path, read_record
from .tensorrt_build import make_key, make_profile
from .tensorrt_engines import obtain_engine
from .tensorrt_library import Gpu, check_gpu_precision, find_gpu, import_tensorrt
from .tensorrt_net import TensorRTNet
from .tensorrt_plans import Engine, find_engine

Say = Callable[[str], None]


@dataclass(frozen=True)
class TensorRTRuntime:
    """Executes engines.

    Attributes:
        gpu: Where.
        precision: Of the engines.
        parts: The card's part that each graph belongs to.
        engines: The record of each graph, and its engine.
        name: What sidecars record.
    """

    gpu: Gpu
    precision: str
    parts: Mapping[str, str]
    engines: Mapping[str, tuple[GraphRecord, Engine]]
    name: str = "tensorrt"

    @property
    def device(self) -> torch.device:
        return self.gpu.device

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "provider": f"TensorRT {import_tensorrt().__version__} on {self.gpu.name}",
            "graphs": {graph: record.digest for graph, (record, _) in self.engines.items()},
        }

    def load(self, card: Card, part: str) -> nn.Module:
        """The part, put together from its engines.

        Raises:
            InputError: An engine cannot be loaded.
            DigestMismatchError: A plan was changed since it was found.
            OutOfMemoryError: The GPU has not enough memory.
        """
        nets = {
            graph: TensorRTNet(engine.read(), record, engine.key.profile, self.device)
            for graph, (record, engine) in self.engines.items()
            if self.parts[graph] == part
        }
        network: nn.Module = load_family(card.family).assemble(card, part, nets, self.device)
        return network


def open_tensorrt_runtime(
    card: Card,
    *,
    device: str,
    precision: str,
    graphs: Sequence[str] | None,
    batch_size: int = 1,
    guidance_scale: float = 1.0,
    say: Say = lambda sentence: None,
) -> TensorRTRuntime:
    """TensorRT on a model's exported graphs, engines built and compared where none fits; see `choose_runtime`."""
    import_tensorrt()
    gpu = find_gpu(device)
    known = {graph.name: graph for graph in load_family(card.family).graphs(card)}
    names = list(known) if graphs is None else list(graphs)
    if precision == "auto":
        precision = _choose_precision(card, [known[name] for name in names], gpu)
    check_gpu_precision(precision, gpu)
    parts, files, precision = find_exported(card, graphs, precision, runtime="tensorrt")
    # Before the minutes that building takes.
    asked = load_family(card.family).asked_sizes(card, batch_size=batch_size, guidance_scale=guidance_scale)
    for name, (_, record) in files.items():
        check_asked(
            asked.get(name, {}),
            make_profile(known[name], record),
            graph=name,
            what=f"The TensorRT engine of the {name}",
            batch_size=batch_size,
            again=f"Build it for the model's own shape: {export_words(card)} --to tensorrt --part {name} "
            f"--precision {precision}",
        )
    engines = {
        name: (record, obtain_engine(card, known[name], path, record, gpu, say))
        for name, (path, record) in files.items()
    }
    return TensorRTRuntime(gpu, precision, parts, engines)


def choose_gpu(device: str, precision: str) -> Gpu:
    """The GPU that engines in a precision are to be built on.

    Raises:
        InputError: The tensorrt package or the GPU is missing, or the GPU lacks the precision.
    """
    import_tensorrt()
    gpu = find_gpu(device)
    check_gpu_precision(precision, gpu)
    return gpu


def _choose_precision(card: Card, graphs: Sequence[Graph], gpu: Gpu) -> str:
    """What `auto` means: the first precision whose engines are all there, else that of the first full export."""
    exported = exported_precisions(card.directory, [graph.name for graph in graphs])
    for precision in exported if len(exported) > 1 else ():
        records = [(graph, read_record(card, graph.name, graph.part, precision)[1]) for graph in graphs]
        if all(find_engine(card, graph.name, make_key(graph, record, gpu))[0] for graph, record in records):
            return precision
    return exported[0] if exported else "auto"


def export_engines(
    card: Card, graphs: Sequence[Graph], *, precision: str, gpu: Gpu, say: Say = lambda sentence: None
) -> Iterator[tuple[Graph, Engine]]:
    """Makes the engines of graphs, and their ONNX files where there are none of these shapes and weights yet.

    An ONNX file in bf16 is not run by ONNX Runtime, which has no kernels for it on most machines: its engine is
    what is compared with PyTorch, and its record says so.

    Args:
        card: The model, in the folder that takes the files.
        graphs: Its graphs, in the shapes that they are to take.
        precision: fp32, fp16 or bf16.
        gpu: The GPU, which the engines are for; it has the precision.
        say: Called with a sentence before something that takes minutes.

    Yields:
        Each graph and its engine.

    Raises:
        ParityError, OutOfMemoryError, InputError, OSError: See `tensorrt_engines.obtain_engine`; what was yielded
            before stays.
    """
    for graph in graphs:
        record = _find_onnx(card, graph, precision)
        if record is None:
            from .onnx_export import export_graph

            say(f"Exporting the {graph.name} to ONNX.")
            record = export_graph(card, graph, precision=precision, check=precision != "bf16")
        path = onnx_path(card.directory, graph.name, precision)
        yield graph, obtain_engine(card, graph, path, record, gpu, say)


def _find_onnx(card: Card, graph: Graph, precision: str) -> GraphRecord | None:
    """The record of an export that is there already and takes the shapes that are asked for."""
    try:
        _, record = read_record(card, graph.name, graph.part, precision)
    except (InputError, DigestMismatchError):
        # Missing, damaged or of other weights: made again, as `--to onnx` would.
        return None
    wanted = {name: asdict(axis) for name, axis in graph.axes.items()}
    return record if {name: dict(axis) for name, axis in record.axes.items()} == wanted else None

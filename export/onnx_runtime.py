"""The runtime that executes exported graphs with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from ..zoo.loading import is_installed
from .devices import PRECISIONS, choose_precision
from .onnx_net import OnnxNet
from .onnx_providers import choose_onnx_device, choose_provider, import_onnxruntime, tensorrt_options
from .placement import export_words
from .provider_names import PROVIDERS
from .ranges import check_asked
from .records import FOLDER, GraphRecord, exported_precisions, read_record

# Where a model folder keeps the engines of TensorRT, whoever builds them.
ENGINES = "tensorrt"


@dataclass(frozen=True)
class OnnxRuntime:
    """Executes exported graphs.

    Attributes:
        device: Where tensors live.
        precision: Of the graphs.
        provider: cpu, cuda or tensorrt: what of ONNX Runtime executes them.
        parts: The card's part that each graph belongs to.
        files: Path and record of each graph, checked.
        name: What sidecars record.
    """

    device: torch.device
    precision: str
    provider: str
    parts: Mapping[str, str]
    files: Mapping[str, tuple[Path, GraphRecord]]
    name: str = "onnx"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "provider": f"{PROVIDERS[self.provider]} {import_onnxruntime().__version__}",
            "graphs": {graph: record.digest for graph, (_, record) in self.files.items()},
        }

    def load(self, card: Card, part: str) -> nn.Module:
        """The part, put together from its graphs.

        Raises:
            InputError: ONNX Runtime cannot execute a graph with this provider, or it is another graph.
            OutOfMemoryError: There is not enough memory for a graph.
        """
        nets = {graph: self._load_graph(card, graph) for graph in self.files if self.parts[graph] == part}
        network: nn.Module = load_family(card.family).assemble(card, part, nets, self.device)
        return network

    def _load_graph(self, card: Card, graph: str) -> OnnxNet:
        path, record = self.files[graph]
        axes, options = record.axes, None
        if self.provider == "tensorrt":
            axes, options = _prepare_engine(card, record, self.device)
        return OnnxNet(path, axes, provider=self.provider, inputs=record.inputs, device=self.device, options=options)


def _prepare_engine(
    card: Card, record: GraphRecord, device: torch.device
) -> tuple[Mapping[str, Mapping[str, int]], dict[str, str]]:
    """The range of shapes of the TensorRT provider's engine, and the provider's options.

    The engine lies in a folder named after everything that `--runtime tensorrt` keys its own by, and ONNX Runtime.
    """
    from .tensorrt_build import make_key
    from .tensorrt_library import find_gpu

    graph = next(each for each in load_family(card.family).graphs(card) if each.name == record.graph)
    key = make_key(graph, record, find_gpu(str(device)))
    folder = card.directory / ENGINES / f"onnxruntime-{import_onnxruntime().__version__}-{key.digest[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return key.profile, tensorrt_options(device, record.precision, record.inputs, key.profile, folder)


def open_onnx_runtime(
    card: Card,
    provider: str,
    *,
    device: str,
    precision: str,
    graphs: Sequence[str] | None,
    batch_size: int = 1,
    guidance_scale: float = 1.0,
) -> OnnxRuntime:
    """ONNX Runtime on a model's exported graphs; see `runtimes.choose_runtime`."""
    where = choose_onnx_device("cuda" if device == "auto" and provider in ("cuda", "tensorrt") else device)
    chosen = choose_provider(provider, where)
    parts, files, precision = find_exported(card, graphs, precision)
    if precision == "bf16" and chosen == "cpu":
        raise InputError("ONNX Runtime does not compute in bf16 on a CPU.", "Use --precision fp32.")
    if precision == "bf16":
        choose_precision(precision, where)
    asked = load_family(card.family).asked_sizes(card, batch_size=batch_size, guidance_scale=guidance_scale)
    for name, (path, record) in files.items():
        check_asked(
            asked.get(name, {}),
            record.axes,
            graph=name,
            what=path.name,
            batch_size=batch_size,
            again=f"Export it for the model's own shape: {export_words(card)} --to onnx --part {name} "
            f"--precision {precision}",
        )
    return OnnxRuntime(where, precision, chosen, parts, files)


def find_exported(
    card: Card, graphs: Sequence[str] | None, precision: str, *, runtime: str = "onnx"
) -> tuple[dict[str, str], dict[str, tuple[Path, GraphRecord]], str]:
    """A model's exported graphs, each checked against its record.

    Args:
        card: The model.
        graphs: Which; all of the model's when None.
        precision: auto, fp32, fp16 or bf16. `auto` takes the first of them in which all graphs are there.
        runtime: onnx or tensorrt: what they are for.

    Returns:
        The card's part of each graph, path and record of each graph, and the precision.

    Raises:
        InputError: A graph has not been exported, was made from other weights, or was made for TensorRT alone.
        DigestMismatchError: A file is damaged.
    """
    known = {graph.name: graph.part for graph in load_family(card.family).graphs(card)}
    names = list(known) if graphs is None else list(graphs)
    if precision == "auto":
        found = exported_precisions(card.directory, names)
        if not found:
            raise InputError(
                f"Model {card.id} has not been exported: {card.directory / FOLDER} lacks some of {', '.join(names)}.",
                f"Run: {export_words(card)} --to {runtime}"
                + (f", then give --model ./{card.directory.name}" if is_installed(card) else ""),
            )
        precision = found[0]
    elif precision not in PRECISIONS:
        raise InputError(f"{precision!r} is not a precision.", f"Use auto, {', '.join(PRECISIONS)}.")
    parts = {name: known[name] for name in names}
    files = {name: read_record(card, name, part, precision) for name, part in parts.items()}
    for path, record in files.values():
        if runtime == "onnx" and record.max_error is None:
            raise InputError(
                f"{path} was made for TensorRT and not compared with PyTorch in ONNX Runtime.",
                f"Run: {export_words(card)} --to onnx --part {record.graph} --precision {precision}",
            )
    return parts, files, precision

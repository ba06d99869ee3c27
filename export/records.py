"""Parity records: what an exported graph was made from, what it was checked against, and in which shapes it may run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_json
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.errors import DigestMismatchError
from ..zoo.loading import part_digests, sha256_file
from .placement import export_words

RECORD_SCHEMA = "ccella.onnx/1"
FOLDER = "onnx"


@dataclass(frozen=True)
class GraphRecord:
    """The JSON beside an exported graph.

    Attributes:
        graph: Its name, such as `decoder`.
        precision: fp32, fp16 or bf16.
        files: SHA-256 of the ONNX file and of its external data, by file name; the ONNX file comes first.
        weights: SHA-256 of the weights it was made from, by `part/path`.
        axes: Smallest, best and largest size of every dynamic axis, and what sizes are multiples of.
        inputs: Axes or fixed sizes of each input.
        opset: Version of the ONNX operators.
        tolerance: Largest difference that was allowed, as a share of the largest output.
        max_error: Largest difference found; None where it was made for TensorRT, whose engine is compared instead.
        checks: Per comparison the sizes, the output and the difference.
        versions: Of the libraries that made and checked it.
    """

    graph: str
    precision: str
    files: Mapping[str, str]
    weights: Mapping[str, str]
    axes: Mapping[str, Mapping[str, int]]
    inputs: Mapping[str, Sequence[int | str]]
    opset: int
    tolerance: float
    max_error: float | None
    checks: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    schema: str = RECORD_SCHEMA

    @property
    def digest(self) -> str:
        """SHA-256 of the ONNX file; with weights in a file of their own, one that stands for all the files."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()


def stem(graph: str, precision: str) -> str:
    """File name of a graph without its ending."""
    return f"{graph}.{precision}"


def onnx_path(folder: Path, graph: str, precision: str) -> Path:
    """Where a model folder keeps a graph."""
    return folder / FOLDER / f"{stem(graph, precision)}.onnx"


def record_path(folder: Path, graph: str, precision: str) -> Path:
    """Where a model folder keeps a graph's record."""
    return folder / FOLDER / f"{stem(graph, precision)}.json"


def graph_weights(card: Card, part: str) -> dict[str, str]:
    """Digests of the weights of a part, by `part/path`."""
    return {name: digest for name, digest in part_digests(card).items() if name.startswith(f"{part}/")}


def exported_precisions(folder: Path, graphs: Sequence[str]) -> list[str]:
    """The precisions in which a model folder holds every one of `graphs`."""
    known = ("fp32", "fp16", "bf16")
    return [name for name in known if all(record_path(folder, graph, name).is_file() for graph in graphs)]


def write_record(folder: Path, record: GraphRecord) -> Path:
    """Writes a record beside its graph."""
    path = record_path(folder, record.graph, record.precision)
    write_json(path, asdict(record))
    return path


def read_record(card: Card, graph: str, part: str, precision: str) -> tuple[Path, GraphRecord]:
    """An exported graph of a model and its record, each file checked against the record.

    Args:
        card: The model.
        graph: Name of the graph.
        part: The card's part that holds its weights.
        precision: fp32, fp16 or bf16.

    Returns:
        Path of the ONNX file, and the record.

    Raises:
        InputError: The graph was not exported, its record cannot be read, or it was made from other weights.
        DigestMismatchError: A file is not the one that was checked.
    """
    again = f"Export it again: {export_words(card)} --to onnx --part {graph} --precision {precision}"
    path, model = record_path(card.directory, graph, precision), onnx_path(card.directory, graph, precision)
    if not path.is_file():
        raise InputError(f"Model {card.id} has no ONNX {graph} in {precision}: there is no {path}.", again)
    try:
        record = GraphRecord(**json.loads(path.read_text(encoding="utf-8")))
        if record.schema != RECORD_SCHEMA or (record.graph, record.precision) != (graph, precision):
            raise ValueError(f"it speaks of {record.graph} in {record.precision}, schema {record.schema}")
        files = list(record.files)
        if not files or files[0] != model.name or any(Path(name).name != name for name in files):
            raise ValueError(f"it lists the files {files}")
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no record of an exported graph: {error}.", again) from error
    for name, digest in record.files.items():
        file = path.with_name(name)
        if not file.is_file():
            raise InputError(f"{path} speaks of {file}, which does not exist.", again)
        found = sha256_file(file)
        if found != digest:
            raise DigestMismatchError(
                f"{file} has SHA-256 {found}; its record says {digest}: it is damaged or not the one that was checked.",
                again,
            )
    if dict(record.weights) != graph_weights(card, part):
        raise InputError(f"{model} was made from other weights than those of model {card.id}.", again)
    return model, record

"""`ccella export`: the parts of a model as files for other runtimes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..zoo.card import Card
from ..zoo.registry import find_card
from .notes import say
from .options import device_option, stream_options
from .output import Output
from .stages import require_weights

if TYPE_CHECKING:
    from ..zoo.graphs import Graph

PRECISIONS = ("fp32", "fp16", "bf16")


class ShapesType(click.ParamType[tuple[tuple[int, ...], ...]]):
    """One shape, or the smallest, best and largest, such as `32,32,16:64,64,32:64,64,32`."""

    name = "MIN:OPT:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, ...], ...]:
        """Parses the form; whether the model takes the shapes is seen later."""
        if isinstance(value, tuple):
            return value
        try:
            shapes = tuple(tuple(int(size) for size in shape.split(",")) for shape in value.split(":"))
        except ValueError:
            shapes = ()
        if len(shapes) not in (1, 3):
            raise click.BadParameter(
                f"{value!r} is neither X,Y,Z nor X,Y,Z:X,Y,Z:X,Y,Z in voxels.", param=param, ctx=ctx
            )
        return shapes


class NamesType(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Splits at the commas."""
        return value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(",") if name.strip())


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--to", "target", type=click.Choice(("onnx", "tensorrt")), required=True, help="What to export to.")
@click.option(
    "--part", "parts", type=NamesType(), metavar="NAME,...",
    help="adapter, denoiser, decoder and encoder; or classifier.  [default: all]",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Number format of the result."
)
@click.option(
    "--shape", "shapes", type=ShapesType(), metavar="MIN:OPT:MAX",
    help="Image shapes X,Y,Z in voxels that it is to take, or one shape.  [default: half the model's to the model's]",
)  # fmt: skip
@click.option(
    "-o", "--output", "out", metavar="DIR", type=click.Path(path_type=Path),
    help="Model folder for the result; made as a copy of MODEL where missing.  [default: MODEL's own]",
)  # fmt: skip
@device_option
@stream_options
def command(
    model: str,
    target: str,
    parts: tuple[str, ...] | None,
    precision: str,
    shapes: tuple[tuple[int, ...], ...] | None,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Export the parts of MODEL, each checked against PyTorch on random inputs.

    ONNX files go into the model folder's onnx/. TensorRT engines are built from them for the GPU of this machine, and
    go into tensorrt/. Each has a record of what it was checked against; a part that computes something else than
    PyTorch is not written.
    """
    from ..export.onnx_export import choose_graphs, choose_shapes
    from ..export.placement import prepare_folder

    card = find_card(model)
    graphs = choose_graphs(card, parts, choose_shapes(card, shapes))
    export = _export_onnx if target == "onnx" else _export_tensorrt

    def prepare() -> Card:
        require_weights(card, *dict.fromkeys(graph.part for graph in graphs))
        return prepare_folder(card, out)

    # What the machine or the model lacks is said before a folder is made.
    rows = export(graphs, precision, device, prepare)
    with Output("part", "precision", "largest error", "tolerance", "file", as_json=as_json) as output:
        for part, path, parity in rows:
            if as_json:
                output.add_object({"part": part, "precision": precision, "path": path.as_posix(), **parity})
            else:
                error, tolerance = parity["max_error"], parity["tolerance"]
                output.add_row(part, precision, f"{error:.1e}", f"{tolerance:.0e}", path)


def _export_onnx(
    graphs: "Sequence[Graph]", precision: str, device: str, prepare: Callable[[], Card]
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    from ..export.onnx_export import check_export, export_graph
    from ..export.records import onnx_path

    check_export(precision, device)
    card = prepare()
    for graph in graphs:
        say(f"Exporting the {graph.name}.")
        record = export_graph(card, graph, precision=precision, device=device)
        parity = {"sha256": record.digest, "max_error": record.max_error, "tolerance": record.tolerance}
        yield graph.name, onnx_path(card.directory, graph.name, precision), parity


def _export_tensorrt(
    graphs: "Sequence[Graph]", precision: str, device: str, prepare: Callable[[], Card]
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    from ..export.tensorrt import choose_gpu, export_engines

    gpu = choose_gpu(device, precision)
    for graph, engine in export_engines(prepare(), graphs, precision=precision, gpu=gpu, say=say):
        parity = {"sha256": engine.sha256, "max_error": engine.max_error, "tolerance": engine.tolerance}
        yield graph.name, engine.path, parity | {"key_sha256": engine.key.digest, "gpu": gpu.name}

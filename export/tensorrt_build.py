"""Builds TensorRT engines from exported graphs, strongly typed: the precision is that of the ONNX file."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..imaging.atomic import write_bytes
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.graphs import Graph
from ..zoo.loading import sha256_file
from .largest_tensor import count_largest_tensor
from .placement import export_words
from .records import GraphRecord
from .tensorrt_library import Gpu, describe_failure, enter_gpu, error_log, import_tensorrt

# TensorRT counts a tensor's elements in 32 bits.
MAX_ELEMENTS = 2**31 - 1
# Counted up whenever `build_engine` asks TensorRT for something else.
RECIPE = 1
Profile = dict[str, dict[str, int]]


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on.

    Attributes:
        onnx: SHA-256 of each file of the graph, by name.
        tensorrt: Version of the package.
        gpu: Name of the GPU.
        capability: Its compute capability.
        precision: fp32, fp16 or bf16.
        profile: Smallest, best and largest size of each axis.
        recipe: RECIPE.
    """

    onnx: Mapping[str, str]
    tensorrt: str
    gpu: str
    capability: str
    precision: str
    profile: Mapping[str, Mapping[str, int]]
    recipe: int

    @property
    def digest(self) -> str:
        """SHA-256 of the key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def make_key(graph: Graph, record: GraphRecord, gpu: Gpu) -> EngineKey:
    """The key of a graph's engine on a GPU."""
    version = str(import_tensorrt().__version__)
    profile = make_profile(graph, record)
    return EngineKey(dict(record.files), version, gpu.name, gpu.capability, record.precision, profile, RECIPE)


def make_profile(graph: Graph, record: GraphRecord) -> Profile:
    """The range of every dynamic axis: the exported one, no larger than what this program asks for."""
    profile = {}
    for name, axis in record.axes.items():
        maximum = min(axis["maximum"], graph.asked_maxima.get(name, axis["maximum"]))
        profile[name] = {**axis, "optimum": min(axis["optimum"], maximum), "maximum": maximum}
    return profile


def check_elements(card: Card, graph: Graph, profile: Mapping[str, Mapping[str, int]]) -> None:
    """InputError where a tensor of a graph would have more elements than TensorRT counts."""
    elements = count_largest_tensor(card, graph, {name: axis["maximum"] for name, axis in profile.items()})
    if elements > MAX_ELEMENTS:
        raise InputError(
            f"The {graph.name} at its largest shape has a tensor of {elements:,} elements, and TensorRT takes "
            f"{MAX_ELEMENTS:,} at most.",
            f"Export it for smaller shapes ({export_words(card)} --to tensorrt --part {graph.name} --shape "
            "MIN:OPT:MAX), or use --runtime torch.",
        )


def timing_cache_name(key: EngineKey) -> str:
    """File name for kernel times, which hold for one GPU and one TensorRT."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{key.gpu}-{key.capability}-{key.tensorrt}") + ".timing"


def build_engine(onnx_file: Path, record: GraphRecord, key: EngineKey, gpu: Gpu, timing_cache: Path) -> bytes:
    """Builds a serialised engine of a graph.

    Args:
        onnx_file: The graph.
        record: Its record.
        key: What is to be built.
        gpu: Where it is built, and will run.
        timing_cache: Kernel times, read and written back; whoever calls holds the lock that guards it.

    Raises:
        InputError: TensorRT cannot parse or build the graph, or the graph was changed meanwhile.
        OutOfMemoryError: There was too little memory.
    """
    trt = import_tensorrt()
    log = error_log(trt)
    log.take()
    with enter_gpu(gpu.device):
        builder = trt.Builder(log.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse_from_file(str(onnx_file)):
            errors = "; ".join(str(parser.get_error(i)) for i in range(min(3, parser.num_errors)))
            raise InputError(
                f"TensorRT {key.tensorrt} cannot read {onnx_file}: {errors}.", "Use --runtime onnx or torch."
            )
        config = _configure(trt, builder, record, key)
        cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):
            # Of another driver, or damaged: times are measured again, nothing else depends on them.
            config.set_timing_cache(config.create_timing_cache(b""), False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _explain(describe_failure(f"TensorRT {key.tensorrt}, building the {record.graph}", log.take()), key)
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    if {name: sha256_file(onnx_file.with_name(name)) for name in key.onnx} != dict(key.onnx):
        raise InputError(f"{onnx_file} was changed while its engine was built.", "Run the command again.")
    return bytes(plan)


def _configure(trt: Any, builder: Any, record: GraphRecord, key: EngineKey) -> Any:
    """What is asked of the builder."""
    config = builder.create_builder_config()
    # fp32 would be computed with 10 bits of mantissa instead of 23.
    config.clear_flag(trt.BuilderFlag.TF32)
    features: Any = getattr(trt, "PreviewFeature", None)
    if hasattr(features, "RUNTIME_ACTIVATION_RESIZE_10_10"):
        # Memory for the shapes at hand instead of the largest ones; `tensorrt_net` asks how much.
        config.set_preview_feature(features.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    profile = builder.create_optimization_profile()
    for name, shape in record.inputs.items():
        sizes = [
            tuple(size if isinstance(size, int) else key.profile[size][which] for size in shape)
            for which in ("minimum", "optimum", "maximum")
        ]
        profile.set_shape(name, *sizes)
    if config.add_optimization_profile(profile) < 0:
        raise InputError(
            f"TensorRT {key.tensorrt} does not take the shapes of the {record.graph}: {dict(key.profile)}.",
            "Export it for another --shape, or use --runtime torch.",
        )
    return config


def _explain(error: RuntimeError, key: EngineKey) -> Exception:
    """A failed build as the user should see it: memory apart from what TensorRT cannot do."""
    if type(error) is not RuntimeError:
        return error
    return InputError(
        f"{error} ({key.precision} on {key.gpu}).",
        "Export it for a smaller --shape or in another --precision, or use --runtime torch.",
    )

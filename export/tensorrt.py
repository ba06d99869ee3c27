"""TensorRT engines, built on this machine from exported ONNX graphs and kept beside them.

An engine fits one GPU, one TensorRT, one graph and one range of shapes. All of that is its key, stored beside the plan:
a plan whose key is another one, or whose content is not what the key file says, is built again and never loaded.
Graphs are built strongly typed: the precision is that of the ONNX file.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.atomic import write_bytes, write_json
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from .devices import PRECISIONS, choose_device
from .onnx_net import check_shapes
from .onnx_runtime import find_exported
from .records import GraphRecord, stem

FOLDER = "tensorrt"
# An engine sets memory aside for its largest batch; ONNX files leave the batch wider open.
MAX_BATCH = 16
Profile = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Gpu:
    """The GPU an engine is for: its name and compute capability, such as "9.0"."""

    device: torch.device
    name: str
    capability: str


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on."""

    onnx: str
    tensorrt: str
    gpu: str
    capability: str
    precision: str
    profile: Mapping[str, Mapping[str, int]]

    @property
    def digest(self) -> str:
        """SHA-256 of the key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def import_tensorrt() -> Any:
    """The module; InputError with the install line where it is missing."""
    try:
        import tensorrt
    except ImportError as error:
        raise InputError(
            f"Runtime tensorrt needs the package tensorrt, which cannot be imported ({error}).",
            "On a machine with an NVIDIA GPU: pip install 'ccella[gpu]'; elsewhere use --runtime torch or onnx.",
        ) from error
    return tensorrt


def find_gpu(requested: str) -> Gpu:
    """The GPU a request for a device means.

    Raises:
        InputError: This machine lacks it, or the device is no NVIDIA GPU.
    """
    device = choose_device("cuda" if requested == "auto" else requested)
    if device.type != "cuda":
        raise InputError(f"TensorRT does not run on device {device}.", "Use --device cuda, or --runtime torch or onnx.")
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(device, torch.cuda.get_device_name(device), f"{major}.{minor}")


def make_profile(record: GraphRecord) -> Profile:
    """The range of every dynamic axis: the exported one, with the batch kept small."""
    profile = {name: dict(axis) for name, axis in record.axes.items()}
    if "batch" in profile:
        profile["batch"]["maximum"] = min(MAX_BATCH, profile["batch"]["maximum"])
    return profile


def find_engine(
    onnx_file: Path, record: GraphRecord, gpu: Gpu, folder: Path, say: Callable[[str], None] = lambda sentence: None
) -> tuple[Path, EngineKey]:
    """The engine of a graph for this machine, built where there is none that fits.

    Args:
        onnx_file: The exported graph.
        record: Its record.
        gpu: The GPU.
        folder: The model folder.
        say: Called with a sentence before the minutes that a build takes.

    Returns:
        The plan and its key.

    Raises:
        InputError: The tensorrt package is missing, or cannot build the graph.
    """
    trt = import_tensorrt()
    key = EngineKey(record.digest, trt.__version__, gpu.name, gpu.capability, record.precision, make_profile(record))
    plan = folder / FOLDER / f"{stem(record.graph, record.precision)}.plan"
    key_file = plan.with_suffix(".json")
    reason = _mismatch(plan, key_file, key)
    if reason is not None:
        say(f"Building the TensorRT engine of the {record.graph}: {reason}.")
        data = build_engine(onnx_file, record, key, folder / FOLDER / f"{gpu.capability}.timing")
        # The key goes last: without it a plan is never loaded.
        key_file.unlink(missing_ok=True)
        write_bytes(plan, data)
        write_json(
            key_file, {"key": asdict(key), "key_sha256": key.digest, "plan_sha256": hashlib.sha256(data).hexdigest()}
        )
    return plan, key


def _mismatch(plan: Path, key_file: Path, key: EngineKey) -> str | None:
    """Why a plan cannot be used; None where it can."""
    try:
        stored = json.loads(key_file.read_text(encoding="utf-8"))
        data = plan.read_bytes()
    except FileNotFoundError:
        return "there is none yet"
    except ValueError:
        return f"{key_file.name} is damaged"
    old = stored.get("key") if isinstance(stored, dict) else None
    if not isinstance(old, dict):
        return f"{key_file.name} is damaged"
    different = [name for name, value in asdict(key).items() if old.get(name) != value]
    if different:
        return f"the one at hand has another {' and '.join(different)}"
    return None if stored.get("plan_sha256") == hashlib.sha256(data).hexdigest() else f"{plan.name} is damaged"


def build_engine(onnx_file: Path, record: GraphRecord, key: EngineKey, timing_cache: Path) -> bytes:
    """Builds a serialised engine of a graph; `timing_cache`, kernel times of this GPU, is read and written back.

    Raises:
        InputError: TensorRT cannot parse or build the graph.
    """
    trt = import_tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_file)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(min(3, parser.num_errors)))
        raise InputError(f"TensorRT {key.tensorrt} cannot read {onnx_file}: {errors}.", "Use --runtime onnx or torch.")
    config = builder.create_builder_config()
    cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
    config.set_timing_cache(cache, False)
    profile = builder.create_optimization_profile()
    for name, shape in record.inputs.items():
        sizes = [
            tuple(size if isinstance(size, int) else key.profile[size][which] for size in shape)
            for which in ("minimum", "optimum", "maximum")
        ]
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(
            f"TensorRT {key.tensorrt} could not build the {record.graph} in {record.precision}.",
            "Export it for a smaller --shape or in another --precision, or use --runtime torch.",
        )
    write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


class TensorRTNet:
    """An engine, ready to run on the current CUDA stream.

    Args:
        plan: The serialised engine.
        record: Of the graph it was built from.
        key: Of the engine.
        device: The GPU.

    Raises:
        InputError: TensorRT cannot load the plan.
    """

    def __init__(self, plan: Path, record: GraphRecord, key: EngineKey, device: torch.device) -> None:
        trt = import_tensorrt()
        self._path, self._record, self._key, self._device = plan, record, key, device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise InputError(f"TensorRT cannot load {plan}.", f"Delete {plan.parent}; the engines are built again.")
        self._context = self._engine.create_execution_context()
        types = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT64: torch.int64,
        }
        self._types = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            self._types[name] = types[self._engine.get_tensor_dtype(name)]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the engine.

        Args:
            inputs: Tensors by name; floating-point ones are brought to the engine's type.

        Raises:
            InputError: A shape outside the profile.
            RuntimeError: The engine failed.
        """
        check_shapes(self._path, self._record.inputs, self._key.profile, inputs)
        tensors = {
            name: inputs[name].to(device=self._device, dtype=self._types[name]).contiguous()
            for name in self._record.inputs
        }
        for name, tensor in tensors.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
        outputs = {
            name: torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device=self._device)
            for name, kind in self._types.items()
            if name not in tensors
        }
        for name, tensor in (tensors | outputs).items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        if not self._context.execute_async_v3(stream):
            raise RuntimeError(f"TensorRT failed in {self._path}.")
        return outputs


@dataclass(frozen=True)
class TensorRTRuntime:
    """Executes engines; `parts` is the card's part of each graph, `engines` its plan, record and key."""

    gpu: Gpu
    precision: str
    parts: Mapping[str, str]
    engines: Mapping[str, tuple[Path, GraphRecord, EngineKey]]
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
            "graphs": {graph: record.digest for graph, (_, record, _) in self.engines.items()},
        }

    def load(self, card: Card, part: str) -> nn.Module:
        """The part, put together from its engines; InputError where one cannot be loaded."""
        nets = {
            graph: TensorRTNet(plan, record, key, self.device)
            for graph, (plan, record, key) in self.engines.items()
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
    say: Callable[[str], None] = lambda sentence: None,
) -> TensorRTRuntime:
    """TensorRT on a model's exported graphs, engines built where none fits; see `runtimes.choose_runtime`."""
    import_tensorrt()
    gpu = find_gpu(device)
    parts, files, precision = find_exported(card, graphs, precision)
    engines = {}
    for graph, (path, record) in files.items():
        plan, key = find_engine(path, record, gpu, card.directory, say)
        engines[graph] = (plan, record, key)
    return TensorRTRuntime(gpu, precision, parts, engines)

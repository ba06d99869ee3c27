"""Reads somebody else's checkpoint in a process of its own, with limits, without executing anything in it.

A pickle is a program. Here it meets an allow-list: tensors, containers and numbers are built, every other name ends the
reading. `python -m ccella.zoo.unpickling` takes one request as JSON on standard input, answers with one line of JSON on
standard output, and hands the tensors over as safetensors; see `importing.py` for the other side.
"""

import io
import json
import math
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Shapes = Mapping[str, list[int]]

WRAPPERS = ("unet_state_dict", "autoencoder_state_dict", "model_state_dict", "state_dict", "model")
# What DistributedDataParallel and torch.compile put in front of every name.
PREFIXES = ("module.", "_orig_mod.")
# The first object in a file of torch's oldest format is this number.
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
NAMED = 10


class RefusedError(Exception):
    """A checkpoint that cannot be used: the sentence, and what to do."""


class _PlainTensor(torch.Tensor):
    """Stands in for tensor classes of other libraries: the values count, what else they carry is dropped."""

    def __setstate__(self, state: object) -> None:
        """Drops the state."""


class _FullNameUnpickler(pickle.Unpickler):
    """An unpickler that knows the allowed names and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """The object behind an allowed name; RefusedError for any other."""
        full = f"{module}.{name}"
        if full not in _PLAIN_NAMES:
            raise RefusedError(*_holds_code(full))
        return _PLAIN_NAMES[full]


def _load_storage(data: bytes) -> Any:
    """A storage inside a plain pickle, which is a torch file of its own."""
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _stand_ins() -> dict[str, Any]:
    """Names beyond torch's own allow-list that checkpoints of this field hold, and the inert things they become."""
    names: dict[str, Any] = {"numpy.dtype": np.dtype, "numpy.ndarray": np.ndarray}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[f"{module}.scalar"] = np._core.multiarray.scalar  # type: ignore[attr-defined]
        names[f"{module}._reconstruct"] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    for kind in (np.bool_, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64):
        dtype = type(np.dtype(kind))
        names[f"numpy.dtypes.{dtype.__name__}"] = dtype
    names["monai.data.meta_tensor.MetaTensor"] = _PlainTensor
    for enum in ("MetaKeys", "SpaceKeys", "TraceKeys", "TraceStatusKeys"):
        names[f"monai.utils.enums.{enum}"] = str
    return names


_STAND_INS = _stand_ins()
_PLAIN_NAMES: dict[str, Any] = _STAND_INS | {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": torch._tensor._rebuild_from_type_v2,
    "torch.storage._load_from_bytes": _load_storage,
    "torch.Size": torch.Size,
    **{f"torch.{name}": getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "int64")},
    "_codecs.encode": lambda text, encoding: str(text).encode("latin1"),
}


def _holds_code(name: str) -> tuple[str, str]:
    return (
        f"it holds code: unpickling it would call {name}; nothing of it was run",
        "Ask its author for a file of tensors alone, such as safetensors.",
    )


def load_checkpoint(path: Path) -> Any:
    """What a checkpoint holds: of a safetensors file, a torch file of either format, or a plain pickle.

    Raises:
        RefusedError: It holds a name that is not on the allow-list, or it is none of these.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip or head.startswith(TORCH_LEGACY):
            with torch.serialization.safe_globals([(thing, name) for name, thing in _STAND_INS.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        if not head.startswith(b"\x80"):
            raise RefusedError("it is no checkpoint of torch, no pickle and no safetensors file", "Check the file.")
        with path.open("rb") as stream:
            return _FullNameUnpickler(stream).load()
    except (RefusedError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged or hostile stream makes the readers raise
        found = re.search(r"(?:GLOBAL|global|[Tt]rying to (?:load|call|instantiate))[: ]+([\w.]+\.[\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            raise RefusedError(*_holds_code(found[1].rstrip("."))) from error
        if "allocate memory" in str(error):
            raise MemoryError from error
        reason = " ".join(str(error).split())[:200]
        raise RefusedError(f"it cannot be read ({type(error).__name__}: {reason})", "Copy the file again.") from error


def find_weights(loaded: object) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict inside a checkpoint, with the prefixes of wrappers taken off, and the key it lay under."""
    if not isinstance(loaded, Mapping):
        raise RefusedError(f"it holds a {type(loaded).__name__}, not a dict", "Give a checkpoint with a state dict.")
    key = next((name for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), "")
    state = loaded[key] if key else loaded
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            place = key or "the checkpoint"
            raise RefusedError(
                f"{str(name)[:80]!r} of {place} is a {type(value).__name__}, not a tensor",
                f"Looked for a state dict under {', '.join(WRAPPERS)}, or for nothing but tensors.",
            )
    if not state:
        raise RefusedError("its state dict is empty", "Give a checkpoint with weights.")
    weights = dict(state)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights, key


def choose_part(weights: Mapping[str, torch.Tensor], parts: Mapping[str, Shapes]) -> str:
    """The part whose names fit best, every name and shape of which must match."""
    shared = {part: len(set(weights) & set(shapes)) for part, shapes in parts.items()}
    part = max(shared, key=lambda name: shared[name])
    if not shared[part]:
        first = ", ".join(sorted(weights)[:3])
        raise RefusedError(
            f"none of its {len(weights)} names ({first} ...) belongs to the model's {' or '.join(parts)}",
            "Name the model it was trained as with --as.",
        )
    shapes = parts[part]
    complaints = []
    for kind, names in (
        ("missing", sorted(set(shapes) - set(weights))),
        ("extra", sorted(set(weights) - set(shapes))),
        (
            "misshapen",
            [
                f"{name} is {list(weights[name].shape)} and should be {list(shapes[name])}"
                for name in shapes
                if name in weights and list(weights[name].shape) != list(shapes[name])
            ],
        ),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            complaints.append(f"{len(names)} {kind}: {', '.join(names[:NAMED])}{more}")
    if complaints:
        raise RefusedError(
            f"its tensors do not fit the model's {part}: {'; '.join(complaints)}",
            "Name the model it was trained as with --as, or correct that model's parts." + part + ".config.",
        )
    return part


def find_scale(loaded: object) -> list[float] | None:
    """The latent scale that lies beside the weights, as numbers; None where there is none."""
    value = loaded.get("scale_factor") if isinstance(loaded, Mapping) else None
    if value is None:
        return None
    try:
        scale = np.asarray(value.tolist() if hasattr(value, "tolist") else value, dtype=np.float64).reshape(-1).tolist()
    except (TypeError, ValueError) as error:
        raise RefusedError("its scale_factor is no number", "Give the factors with --scale-factor.") from error
    return [float(number) for number in scale]


def _separate(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Plain tensors, each with memory of its own; what has its own is not copied: a large file stays mapped."""
    plain: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in weights.items():
        tensor = value.detach().as_subclass(torch.Tensor).contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    return plain


def _convert(request: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors.torch import save_file

    loaded = load_checkpoint(Path(request["source"]))
    weights, key = find_weights(loaded)
    part = choose_part(weights, request["parts"])
    for name, value in weights.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise RefusedError(f"{name} holds values that are not finite numbers", "Take an earlier checkpoint.")
    save_file(_separate(weights), request["target"])
    others = sorted(str(name)[:80] for name in loaded if name != key) if key else []
    timesteps = loaded.get("num_train_timesteps") if key else None
    return {
        "part": part,
        "key": key,
        "scale_factor": find_scale(loaded),
        "train_timesteps": int(timesteps) if isinstance(timesteps, int | float) and math.isfinite(timesteps) else None,
        "left_out": [name for name in others if name != "scale_factor"],
    }


def limit_process(memory_bytes: int, cpu_s: int) -> None:
    """Limits this process to so much more memory than it has now, and so many seconds of processor time."""
    if sys.platform == "win32":
        return  # no such limits there; the caller's time limit still holds
    import resource

    statm = Path("/proc/self/statm")
    used = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize() if statm.is_file() else 0
    for kind, value in (
        (resource.RLIMIT_AS, used + memory_bytes),
        (resource.RLIMIT_CPU, math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + cpu_s),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (wanted, hard))


def answer(request: Mapping[str, Any], convert: Callable[[Mapping[str, Any]], dict[str, Any]] = _convert) -> str:
    """Serves one request; what cannot be used comes back as a sentence and a remedy, never as a traceback."""
    try:
        torch.set_num_threads(1)
        limit_process(request["memory_bytes"], request["cpu_s"])
        result = convert(request)
    except RefusedError as error:
        result = {"error": list(error.args)}
    except MemoryError:
        result = {"error": ["it asks for more memory than its size explains", "Check where the file comes from."]}
    except RecursionError:
        result = {"error": ["it is nested too deeply", "Check where the file comes from."]}
    return json.dumps(result)


if __name__ == "__main__":
    sys.stdout.write(answer(json.load(sys.stdin)))

"""What this machine offers: programs, devices, the cache, the Hub, and whether a model fits."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..zoo.cache import cache_folder
from ..zoo.card import Card
from ..zoo.loading import model_name
from ..zoo.lock import hub_files
from ..zoo.registry import availability

HUB_TIMEOUT_S = 2.0
DRIVER_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One fact about this machine.

    Attributes:
        topic: What it is about.
        value: What was found.
        ok: False where something that was asked for will not work; None where it is a matter of taste.
        remedy: What to do about it; empty where there is nothing to say.
    """

    topic: str
    value: str
    ok: bool | None = None
    remedy: str = ""


def examine(card: Card | None = None) -> Iterator[Finding]:
    """Looks at this machine, and whether a model can sample on it.

    Args:
        card: The model; None leaves that out.

    Yields:
        The findings, cheap ones first. What cannot be found out is a finding too.
    """
    yield Finding("ccella", _version("ccella"))
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}")
    yield _torch()
    yield from _devices()
    yield _onnx()
    yield _package("TensorRT", "tensorrt")
    yield from _cache()
    yield _hub()
    if card is not None:
        yield from _model(card)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _package(topic: str, package: str) -> Finding:
    return Finding(topic, _version(package))


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", f"cannot be imported: {error}", False, "Install ccella again.")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return Finding("torch", f"{torch.__version__}, built with {build}, {torch.get_num_threads()} threads", True)


def _devices() -> Iterator[Finding]:
    import torch

    from ..export.devices import computes_in_bf16

    driver = _driver()
    yield Finding("driver", driver or "no NVIDIA driver")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        major, minor = torch.cuda.get_device_capability(index)
        yield Finding(
            f"cuda:{index}",
            f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute {major}.{minor}",
            True,
        )
    if driver and not torch.cuda.is_available():
        yield Finding(
            "cuda", "there is a GPU, but this torch cannot use it", False,
            "Install a CUDA build of torch that suits the driver; in a container give --gpus all.",
        )  # fmt: skip
    main = _memory()
    shown = f", {main[0] / 2**30:.1f} of {main[1] / 2**30:.1f} GiB free" if main else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = "with" if computes_in_bf16(torch.device("cpu")) else "without"
    yield Finding("cpu", f"{cores} cores{shown}, {bf16} bf16 instructions", True)


def _driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False)  # noqa: S603 - a fixed command
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi failed: {error}"
    lines = done.stdout.split()
    return f"NVIDIA {lines[0]}" if done.returncode == 0 and lines else None


def _memory() -> tuple[int, int] | None:
    """Bytes of main memory that are free, and all; None where the system does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    table = {line.split(":")[0]: line.split()[1] for line in path.read_text(encoding="ascii").splitlines()}
    return int(table["MemAvailable"]) * 1024, int(table["MemTotal"]) * 1024


def _onnx() -> Finding:
    try:
        import onnxruntime
    except (ImportError, OSError):
        return Finding("ONNX Runtime", "not installed", None, "Install the extra `cpu` or `gpu` for --runtime onnx.")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Finding("ONNX Runtime", f"{onnxruntime.__version__}: {providers}", True)


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK | os.X_OK) and existing.is_dir()
    state = "writable" if writable else "can only be read"
    yield Finding(
        "cache", f"{folder}, {free / 1e9:.1f} GB free, {state}", writable or None,
        "" if writable else "What is there can be used; set HF_HOME elsewhere to pull more.",
    )  # fmt: skip


def _hub() -> Finding:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    token = "with a token" if os.environ.get("HF_TOKEN") else "without HF_TOKEN"
    if constants.is_offline_mode():
        return Finding("hub", "offline, as HF_HUB_OFFLINE asks", None)
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception as error:
        return Finding(
            "hub", f"{constants.ENDPOINT} cannot be reached: {' '.join(str(error).split())[:120]}", None,
            "`zoo pull` needs it; on a host without a network use `zoo bundle` and `zoo unbundle`.",
        )  # fmt: skip
    return Finding("hub", f"{constants.ENDPOINT} answers {answer.status_code}, {token}", answer.status_code < 500)


def _model(card: Card) -> Iterator[Finding]:
    needs = availability(card)
    public = hub_files(card)
    missing = [file for _, file in public if file.size is None]
    pull = f"Run `ccella zoo pull {model_name(card)}`" if public else ""
    make = "train or import the parts that are named" if needs.startswith("train") else ""
    remedy = "; ".join(words for words in (pull, make) if words)
    unknown = f"; the size of {len(missing)} files on the Hub is not stated" if missing and needs != "ready" else ""
    yield Finding(
        f"{card.id}: weights", needs + unknown, needs == "ready" or None,
        "" if needs == "ready" else f"{remedy[0].upper()}{remedy[1:]}.",
    )  # fmt: skip
    if card.generation is not None:
        yield _fit(card)


def _fit(card: Card) -> Finding:
    """Whether the model can sample on the device that `--device auto` takes."""
    import torch

    from ..export.devices import choose_device, choose_precision
    from .footprint import RESERVED, estimate_footprint
    from .sampler_settings import choose_settings

    device = choose_device("auto")
    dtype = choose_precision("auto", device)
    footprint = estimate_footprint(card, choose_settings(card), dtype)
    stage = max(footprint.activations, key=lambda name: footprint.activations[name])
    weights, most = sum(footprint.weights.values()), footprint.activations[stage]
    needed = weights + RESERVED[device.type] * most
    memory = _memory() if device.type == "cpu" else None
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory[0] if memory else None
    numbers = (
        f"{needed / 2**30:.2f} GiB needed on {device} in {str(dtype).removeprefix('torch.')}, beside the text encoder: "
        f"weights {weights / 2**30:.2f}, tensors of the {stage} {most / 2**30:.2f} times {RESERVED[device.type]:g}"
    )
    if free is None:
        return Finding(f"{card.id}: fits", f"unknown: {numbers}; the free memory is not known")
    fits = needed <= free
    slabs = "--memory, " if stage == "decode" else ""
    return Finding(
        f"{card.id}: fits", f"{'yes' if fits else 'no'}: {numbers}; {free / 2**30:.2f} GiB free", fits,
        "" if fits else f"Use {slabs}--precision bf16, or a device with more memory.",
    )  # fmt: skip

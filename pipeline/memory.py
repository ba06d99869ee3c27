"""Peak memory of a stretch of work, where the system tells it."""

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
# Resets the high-water mark of the resident set (Linux, proc(5)).
_RESET_PEAK = "5"


def reset_peak(device: torch.device) -> None:
    """Starts a stretch of work."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def read_peak(device: torch.device, *, whole_device: bool = False) -> int | None:
    """Most bytes in use since `reset_peak`: PyTorch's allocations on CUDA, else the process's resident set.

    Args:
        device: Where the work was done.
        whole_device: On CUDA the memory in use on the whole device, by whatever and whichever process, since it was
            first used: ONNX Runtime and TensorRT have allocators of their own, which keep what they once took.

    Returns:
        Bytes; None on systems other than Linux without CUDA.
    """
    if device.type == "cuda" and whole_device:
        free, total = torch.cuda.mem_get_info(device)
        return int(total - free)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not _CLEAR.exists():
        return None
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

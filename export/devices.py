"""Which device and number format execute networks. `auto` decides; an explicit request is met or fails."""

import torch

from ..imaging.errors import InputError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(requested: str) -> torch.device:
    """The device a request means.

    Args:
        requested: auto, cpu, cuda, cuda:N or mps. `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: The request is malformed, or this machine lacks the device.
    """
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise InputError(f"{requested!r} is not a device.", "Use auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"Device {requested} was asked for, and this machine has {count} CUDA devices visible to PyTorch.",
                "Use --device cpu, or install a CUDA build of torch and check the driver with nvidia-smi.",
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("Device mps was asked for, and this machine has none.", "Use --device cpu.")
    elif device.type != "cpu":
        raise InputError(f"Device {requested!r} is not supported.", "Use auto, cpu, cuda, cuda:N or mps.")
    return device


def choose_precision(requested: str, device: torch.device) -> torch.dtype:
    """The number format a request means; `auto` is fp32, the format the cards' figures were measured in.

    Raises:
        InputError: The format is unknown, or the device cannot compute in it.
    """
    if requested == "auto":
        return torch.float32
    if requested not in PRECISIONS:
        raise InputError(f"{requested!r} is not a precision.", f"Use auto, {', '.join(PRECISIONS)}.")
    if requested == "fp16" and device.type == "cpu":
        raise InputError("Precision fp16 was asked for on the CPU.", "Use --precision bf16 or fp32 there.")
    if requested == "bf16" and device.type == "cuda" and not _computes_in_bf16(device):
        raise InputError(
            f"Precision bf16 was asked for on device {device}, which does not compute in it "
            f"({torch.cuda.get_device_name(device)}).",
            "Use --precision fp16 or fp32 there.",
        )
    return PRECISIONS[requested]


def _computes_in_bf16(device: torch.device) -> bool:
    # It looks at the current device; older GPUs emulate the format at a fraction of their speed.
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def forbid_tf32() -> None:
    """Makes PyTorch compute fp32 on CUDA in fp32 from now on, throughout the process.

    Its convolutions would round their inputs to TF32, whose mantissa has 10 bits instead of 23.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False

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
    if requested == "bf16" and device.type == "cuda" and not computes_in_bf16(device):
        raise InputError(
            f"Precision bf16 was asked for on device {device}, which does not compute in it "
            f"({torch.cuda.get_device_name(device)}).",
            "Use --precision fp16 or fp32 there.",
        )
    return PRECISIONS[requested]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16. PyTorch imitates them on others, at a fraction of fp32's speed."""
    if device.type == "cuda":
        # It looks at the current device.
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):
            # Older versions tell whether their library takes the format, which means AVX-512 at least.
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # avx512_bf16 and amx_bf16 on x86-64, likewise named ones elsewhere.
        return any(value is True for name, value in torch.cpu.get_capabilities().items() if "bf16" in name)
    return True


def bf16_warning(device: torch.device) -> str | None:
    """What to say of bf16 that was asked for on a device without instructions for it; None where it has them."""
    if computes_in_bf16(device):
        return None
    return (
        f"Device {device} has no bf16 instructions; PyTorch imitates them, far slower than fp32: use --precision fp32."
    )


def forbid_tf32() -> None:
    """Makes PyTorch compute fp32 on CUDA in fp32 from now on, throughout the process.

    Its convolutions would round their inputs to TF32, whose mantissa has 10 bits instead of 23.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False

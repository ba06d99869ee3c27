"""Failed allocations, whichever library reports them: PyTorch, ONNX Runtime, TensorRT, cuBLAS or cuDNN."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

# What their messages say, in lower case. Each library has classes of its own, and not all have one for this.
_SIGNS = (
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "bad_alloc",
    "bad allocation",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "device_allocation_failed",
    "host_allocation_failed",
    "cudaerrormemoryallocation",
)


class OutOfMemoryError(RuntimeError):
    """A runtime that executes exported graphs could not get the memory it needs.

    Which option helps depends on the command, so the command line words the remedy.

    Args:
        message: One sentence that names the graph and what was asked for.
    """


def find_failed_allocation(error: BaseException | None) -> BaseException | None:
    """The exception, of this one and those that it was raised from, that says that memory could not be had."""
    while error is not None:
        if isinstance(error, MemoryError | OutOfMemoryError):
            return error
        if isinstance(error, OSError):
            # Their words may come from anywhere, such as the name of a file.
            if error.errno == errno.ENOMEM:
                return error
        elif any(sign in str(error).lower() for sign in _SIGNS):
            return error
        error = error.__cause__
    return None


@contextmanager
def name_allocations(what: str) -> Iterator[None]:
    """Turns a failed allocation into an `OutOfMemoryError`; other exceptions pass.

    Args:
        what: What was being done, such as "ONNX Runtime, executing decoder.fp32.onnx".

    Raises:
        OutOfMemoryError: Memory could not be had, by the words of whichever library.
    """
    try:
        yield
    except Exception as error:
        failed = find_failed_allocation(error)
        if failed is None or isinstance(failed, OutOfMemoryError):
            raise
        detail = " ".join(str(failed).split())[:200] or "the machine has no more to give"
        raise OutOfMemoryError(f"{what}: {detail}") from error

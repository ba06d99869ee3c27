"""From an exception to what the user sees: one sentence, one line that says what to do, and an exit code."""

import errno
import os
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass

import click

from ..export.errors import OutOfMemoryError, find_failed_allocation
from ..imaging.errors import InputError
from ..pipeline.errors import ItemsFailedError, RunFolderError
from ..zoo.errors import AccessError, CardError, DigestMismatchError, UnknownModelError, WeightsMissingError
from .notes import write

FAILED = 1
USAGE = 2
WEIGHTS_MISSING = 3
ACCESS = 4
DIGEST = 5
OUT_OF_MEMORY = 6
ITEMS_FAILED = 7
INTERRUPTED = 130

# Errors of ours carry their own remedy; the first class that fits decides.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InputError, USAGE),
    (CardError, USAGE),
    (UnknownModelError, USAGE),
    (RunFolderError, USAGE),
    (WeightsMissingError, WEIGHTS_MISSING),
    (AccessError, ACCESS),
    (DigestMismatchError, DIGEST),
    (ItemsFailedError, ITEMS_FAILED),
)

_UNUSABLE_PATH = {
    errno.EACCES: "Choose a folder that you may write to, or correct its permissions.",
    errno.EPERM: "Choose a folder that you may write to, or correct its permissions.",
    errno.EROFS: "Choose a folder on a file system that can be written to.",
    errno.ENOSPC: "Free some space, then run the same command {again}.",
    errno.EDQUOT: "Free some of your quota, then run the same command {again}.",
    errno.EFBIG: "Lift the limit on the size of files (ulimit -f), or choose another file system; then run it again.",
    errno.ENOTDIR: "Name a folder; a file is in its way.",
    errno.ENAMETOOLONG: "Choose shorter names.",
}


@dataclass(frozen=True)
class Failure:
    """An error as the user sees it.

    Attributes:
        code: Exit code of the process.
        sentence: What went wrong, with the thing and the value.
        remedy: What to run or change; empty where there is nothing to say.
        details: Further lines, such as one per failed item.
    """

    code: int
    sentence: str
    remedy: str = ""
    details: tuple[str, ...] = ()


def explain(error: BaseException, options: Collection[str] = ()) -> Failure:
    """What to tell the user about an exception, and the exit code that goes with it.

    Args:
        error: The exception.
        options: The options that the command has, such as `--resume`: a remedy names no others.
    """
    for translate in _TRANSLATIONS:
        failure = translate(error, options)
        if failure is not None:
            return failure
    return Failure(
        FAILED,
        f"{type(error).__name__}: {one_line(str(error)) or 'no message'}",
        "Set CCELLA_DEBUG=1 to see where it happened, and report it if it is not your input.",
    )


def report(error: BaseException, options: Collection[str] = ()) -> int:
    """Writes an exception to standard error as the user should see it, and returns the exit code; see `explain`.

    `CCELLA_DEBUG=1` adds the traceback.
    """
    if os.environ.get("CCELLA_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    failure = explain(error, options)
    if failure.sentence:
        write(f"error: {failure.sentence}")
    for line in failure.details:
        write(f"  {line}")
    if failure.remedy:
        write(f"  {failure.remedy}")
    return failure.code


def one_line(text: str) -> str:
    """The text with its line ends and runs of blanks turned into single blanks."""
    return " ".join(text.split())


def _interruption(error: BaseException, options: Collection[str]) -> Failure | None:
    if isinstance(error, click.Abort) and isinstance(error.__cause__, KeyboardInterrupt):
        error = error.__cause__
    if isinstance(error, KeyboardInterrupt | click.Abort):
        kept = "What is done is kept; --resume goes on where it stopped."
        remedy = kept if "--resume" in options else "What is finished is kept; run the same command again."
        remedy = getattr(error, "remedy", remedy)
        return Failure(INTERRUPTED, one_line(str(error)) or "Interrupted.", remedy)
    return None


def _usage(error: BaseException, options: Collection[str]) -> Failure | None:
    if not isinstance(error, click.ClickException):
        return None
    message = one_line(error.message)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ccella"
    near = getattr(error, "possibilities", None)
    if near:
        return Failure(USAGE, message, f"Did you mean {near[0]}? `{path} --help` lists them all.")
    if isinstance(error, click.MissingParameter):
        message = one_line(error.format_message())
    elif isinstance(error, click.BadParameter) and error.param is not None:
        message = f"{error.param.get_error_hint(context)}: {message}" if context is not None else message
    return Failure(USAGE, message, f"`{path} --help` shows how it is used.")


def _ours(error: BaseException, options: Collection[str]) -> Failure | None:
    for kind, code in _CODES:
        if isinstance(error, kind):
            details: tuple[str, ...] = ()
            sentence = one_line(str(error))
            if isinstance(error, ItemsFailedError):
                details = tuple(one_line(f"{item.id}: {item.reason} {item.remedy}") for item in error.failures)
                sentence = sentence.split(":", 1)[0] + ":"
            return Failure(code, sentence, getattr(error, "remedy", ""), details)
    if hasattr(error, "remedy"):
        return Failure(FAILED, one_line(str(error)), str(error.remedy))
    return None


def _memory(error: BaseException, options: Collection[str]) -> Failure | None:
    failed = find_failed_allocation(error)
    if failed is None:
        return None
    return Failure(
        OUT_OF_MEMORY,
        f"Out of memory: {one_line(str(failed)).split('. ')[0].rstrip('.') or 'the machine has no more to give'}.",
        _smaller(options, exported=isinstance(failed, OutOfMemoryError)),
    )


def _smaller(options: Collection[str], *, exported: bool) -> str:
    """What takes less memory with a command of these options, where an exported graph failed or PyTorch did."""
    means = {"--shape": "a smaller --shape", "--batch-size": "a smaller --batch-size"}
    if exported:
        means["--memory"] = "--runtime torch (which decodes within --memory)"
    else:
        means["--memory"] = "a smaller --memory"
        # An export has its precision for other reasons, and may be checked where there is none but fp32.
        if "--shape" not in options:
            means["--precision"] = "--precision bf16"
    words = ", ".join([*(text for option, text in means.items() if option in options), "or more memory"])
    kept = "; --resume keeps what is done" if "--resume" in options else ""
    return f"Use {words.removeprefix('or ')}{kept}."


def _files(error: BaseException, options: Collection[str]) -> Failure | None:
    if not isinstance(error, OSError):
        return None
    name = f"{error.filename}: " if error.filename is not None else ""
    sentence = f"{name}{error.strerror or one_line(str(error))}."
    if error.errno in _UNUSABLE_PATH:
        again = "with --resume" if "--resume" in options else "again"
        return Failure(USAGE, sentence, _UNUSABLE_PATH[error.errno].format(again=again))
    if isinstance(error, FileNotFoundError | IsADirectoryError | FileExistsError):
        return Failure(USAGE, sentence, "Check the path.")
    return None


def _encoding(error: BaseException, options: Collection[str]) -> Failure | None:
    if isinstance(error, UnicodeDecodeError):
        sentence = f"The input is not UTF-8 text: byte {error.start} of it means nothing."
        return Failure(USAGE, sentence, "Save it as UTF-8, or give the right file.")
    return None


def _missing_module(error: BaseException, options: Collection[str]) -> Failure | None:
    if isinstance(error, ModuleNotFoundError):
        return Failure(
            FAILED, f"The Python package {error.name} is not installed.", "Install ccella again: `make setup`."
        )
    return None


_TRANSLATIONS: tuple[Callable[[BaseException, Collection[str]], Failure | None], ...] = (
    _interruption,
    _usage,
    _ours,
    _memory,
    _files,
    _encoding,
    _missing_module,
)

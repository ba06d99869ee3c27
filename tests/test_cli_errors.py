"""The map from exceptions to exit codes and sentences."""

import errno

import click
import pytest
import torch

from ccella.cli.errors import Failure, explain, report
from ccella.export.errors import OutOfMemoryError
from ccella.imaging.errors import InputError
from ccella.pipeline.errors import ItemFailure, ItemsFailedError, RunFolderError
from ccella.training.interruption import TrainingInterrupted
from ccella.zoo.errors import AccessError, CardError, DigestMismatchError, UnknownModelError, WeightsMissingError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, 2),
        (CardError, 2),
        (UnknownModelError, 2),
        (RunFolderError, 2),
        (WeightsMissingError, 3),
        (AccessError, 4),
        (DigestMismatchError, 5),
    ],
)
def test_our_errors_keep_their_sentence_and_remedy(kind: type[Exception], code: int) -> None:
    assert explain(kind("This is so.", "Do that.")) == Failure(code, "This is so.", "Do that.")


def test_failed_items_are_listed_one_per_line() -> None:
    failures = [ItemFailure("a", "It is cut.", "Copy it again."), ItemFailure("b", "It is empty.", "")]
    failure = explain(ItemsFailedError(failures, 5))
    assert failure.code == 7
    assert failure.sentence == "2 of 5 items failed:"
    assert failure.details == ("a: It is cut. Copy it again.", "b: It is empty.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory(error: Exception) -> None:
    failure = explain(error, ["--batch-size", "--precision", "--resume"])
    assert failure.code == 6
    assert (
        failure.remedy == "Use a smaller --batch-size, --precision bf16, or more memory; --resume keeps what is done."
    )
    assert explain(error).remedy == "Use more memory."
    # The decoder's --memory bounds PyTorch; a failed export is helped by smaller shapes.
    assert explain(error, ["--memory"]).remedy == "Use a smaller --memory, or more memory."
    assert explain(error, ["--shape", "--precision"]).remedy == "Use a smaller --shape, or more memory."


def test_memory_of_an_exported_graph() -> None:
    error = OutOfMemoryError("ONNX Runtime, executing decoder.fp32.onnx: std::bad_alloc")
    failure = explain(error, ["--batch-size", "--memory", "--precision", "--resume"])
    assert failure.code == 6
    assert failure.sentence == "Out of memory: ONNX Runtime, executing decoder.fp32.onnx: std::bad_alloc."
    assert failure.remedy == (
        "Use a smaller --batch-size, --runtime torch (which decodes within --memory), or more memory; "
        "--resume keeps what is done."
    )
    assert explain(error, ["--shape", "--precision"]).remedy == "Use a smaller --shape, or more memory."


def test_memory_that_another_error_was_raised_from() -> None:
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        except RuntimeError as cause:
            raise ValueError("The export failed.") from cause
    except ValueError as error:
        failure = explain(error)
    assert (failure.code, failure.sentence) == (6, "Out of memory: CUDA out of memory.")


def test_what_only_speaks_of_memory_is_something_else() -> None:
    assert explain(OSError(errno.ENOENT, "No such file", "out of memory.txt")).code == 2
    assert explain(InputError("out of memory.csv is no manifest.", "Give another.")).code == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR])
def test_an_unusable_path_is_bad_input(number: int) -> None:
    failure = explain(OSError(number, "refused", "/some/file"))
    assert failure.code == 2
    assert failure.sentence == "/some/file: refused."
    assert failure.remedy


def test_interruptions() -> None:
    assert explain(KeyboardInterrupt()).code == 130
    assert explain(click.Abort()).code == 130
    assert "--resume" in explain(KeyboardInterrupt(), ["--resume"]).remedy
    assert "--" not in explain(KeyboardInterrupt()).remedy
    saved = explain(TrainingInterrupted("Stopped at step 7.", "Go on with --resume."))
    assert saved == Failure(130, "Stopped at step 7.", "Go on with --resume.")


def test_anything_else_fails_with_its_name_and_on_one_line() -> None:
    failure = explain(ZeroDivisionError("by\n  zero"))
    assert failure.code == 1
    assert failure.sentence == "ZeroDivisionError: by zero"
    assert "CCELLA_DEBUG=1" in failure.remedy


def test_missing_module_is_named() -> None:
    failure = explain(ModuleNotFoundError("No module named 'left'", name="left"))
    assert failure.code == 1
    assert "left" in failure.sentence


def test_report_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(InputError("This is so.", "Do that.")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: This is so.\n  Do that.\n"


@pytest.mark.parametrize(
    ("words", "has"), [(["sample", "-o", "x"], True), (["zoo", "pull", "sample"], False), (["phantom"], True)]
)
def test_remedies_name_options_that_the_command_has(words, has, monkeypatch, capsys):
    """A full disk while a command is under way: the remedy speaks of --resume where there is one."""
    from ccella.cli import main

    def fill_disk(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    monkeypatch.setattr(main.ccella, "main", fill_disk)
    assert main.run(words) == 2
    assert ("--resume" in capsys.readouterr().err) == has

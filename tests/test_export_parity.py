"""At which sizes an exported graph is compared with PyTorch, and what is let through."""

import pytest
import torch

from ccella.export.devices import forbid_tf32
from ccella.export.parity import ParityError, choose_sizes, find_largest_error
from ccella.zoo.graphs import Axis


def test_the_largest_shape_is_compared_up_to_twice_the_best():
    axes = {"batch": Axis(1, 2, 64), "x": Axis(2, 4, 6), "y": Axis(2, 4, 40)}
    assert choose_sizes(axes) == [
        {"batch": 2, "x": 2, "y": 2},
        {"batch": 1, "x": 4, "y": 4},
        {"batch": 1, "x": 6, "y": 8},
    ]


def test_no_size_is_compared_twice():
    assert choose_sizes({"batch": Axis(1, 1, 64), "x": Axis(8, 8, 8)}) == [{"batch": 2, "x": 8}, {"batch": 1, "x": 8}]
    assert choose_sizes({"steps": Axis(1, 20, 20)}) == [{"steps": 1}, {"steps": 20}]


def checks(*errors: float) -> list[dict[str, object]]:
    return [{"sizes": {"batch": 1, "x": i}, "output": "mean", "error": error} for i, error in enumerate(errors)]


def test_the_largest_error_counts():
    assert find_largest_error(checks(1e-6, 3e-5, 2e-6), 1e-4, "The ONNX encoder in fp32") == 3e-5
    with pytest.raises(ParityError, match=r"in fp32 differs from PyTorch by 2.0e-04 .* more than 1e-04; it was not wr"):
        find_largest_error(checks(1e-6, 2e-4), 1e-4, "The ONNX encoder in fp32")


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_error_that_is_not_finite_is_enough(error, place):
    errors = [1e-6, 1e-6, 1e-6]
    errors[place] = error
    with pytest.raises(ParityError, match=f"at batch 1, x {place} the mean of one of them is not finite"):
        find_largest_error(checks(*errors), 1e-4, "The ONNX encoder in fp32")


def test_fp32_is_not_tf32():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    forbid_tf32()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32

"""Group normalisation of channels-last activations: the gradients are those of PyTorch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ccella.training.channels_last import CHUNK_ELEMENTS, use_channels_last


def gradients(norm: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    norm.zero_grad()
    y = norm(x)
    y.backward(dy)
    assert x.grad is not None
    return [y.detach(), x.grad, *(parameter.grad for parameter in norm.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize(
    ("groups", "shape"), [(4, (2, 32, 32, 24, 12)), (1, (1, 8, 48, 32, 24)), (16, (3, 16, 160, 128))]
)
def test_gradients_are_those_of_float64(groups: int, shape: tuple[int, ...]) -> None:
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator).bfloat16().contiguous(memory_format=layout) for _ in range(2))
    assert x[0].numel() > CHUNK_ELEMENTS
    exact = nn.GroupNorm(groups, shape[1])
    with torch.no_grad():
        exact.weight.copy_(torch.linspace(0.5, 2.0, shape[1]))
        exact.bias.copy_(torch.linspace(-1.0, 1.0, shape[1]))
    ours = copy.deepcopy(exact)
    use_channels_last(ours)
    found, wanted = gradients(ours, x, dy), gradients(exact.double(), x.double(), dy.double())
    assert "_GroupNorm" in str(ours(x.clone().requires_grad_()).grad_fn)
    assert found[1].is_contiguous(memory_format=layout)
    for name, value, truth in zip(("y", "x", "weight", "bias"), found, wanted, strict=True):
        # Only the results in bfloat16 are rounded to it.
        tolerance = 2**-8 if name in "xy" else 1e-5
        assert float((value.double() - truth).abs().max() / truth.abs().max()) < tolerance, name


def test_a_copy_has_weights_of_its_own() -> None:
    norm = nn.Sequential(nn.GroupNorm(2, 4))
    use_channels_last(norm)
    other = copy.deepcopy(norm)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.fill_(3.0)
    x = torch.randn(1, 4, 64, 64, 32).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    assert (other(x.requires_grad_()) == 3.0).all()


def test_what_is_small_or_in_float32_is_left_to_pytorch() -> None:
    norm = nn.GroupNorm(2, 4)
    use_channels_last(norm)
    for x in (torch.randn(1, 4, 64, 64, 32), torch.randn(1, 4, 8, 8, 8).bfloat16()):
        given = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        assert "NativeGroupNorm" in str(norm(given).grad_fn)


def test_channels_last_keeps_values() -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    use_channels_last(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert module[1].weight.is_contiguous(memory_format=torch.channels_last)

"""What the tests of TensorRT share: the stand-in in its place, and a copy of the exported model."""

import shutil
import sys
from contextlib import contextmanager

import pytest
import torch

from ccella.export import tensorrt, tensorrt_build, tensorrt_engines, tensorrt_net
from ccella.export.runtimes import choose_runtime
from ccella.export.tensorrt_library import Gpu
from ccella.zoo.card import read_card

from .tensorrt_stand_in import Package


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The stand-in, imported as tensorrt, and a GPU of its name. Tensors stay on the CPU."""
    module = Package()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use_gpu(monkeypatch)

    @contextmanager
    def enter(device):
        module.current, before = device, module.current
        yield
        module.current = before

    for each in (tensorrt_build, tensorrt_engines, tensorrt_net):
        monkeypatch.setattr(each, "enter_gpu", enter)
    return module


def use_gpu(monkeypatch, name="NVIDIA Test", capability="9.0"):
    """Makes another GPU the one that is found."""
    gpu = Gpu(torch.device("cpu"), name, capability)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda requested: gpu)


@pytest.fixture
def model(exported_model, tmp_path):
    """A copy of the exported model, as a card."""
    shutil.copytree(exported_model, tmp_path / "model")
    return read_card(tmp_path / "model/card.toml")


def open_decoder(card, said=None, **options):
    """The runtime with the decoder alone; what it says goes into a list."""
    said = [] if said is None else said
    return choose_runtime("tensorrt", card, graphs=["decoder"], say=said.append, **options)


def list_plans(card):
    """Names of the model folder's plans."""
    return sorted(path.name for path in (card.directory / "tensorrt").glob("*.plan"))

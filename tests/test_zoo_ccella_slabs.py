"""Decoding in slabs gives the image of the whole, and the plan keeps to the memory."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ccella.cli.main import run
from ccella.imaging.errors import InputError
from ccella.pipeline.decode import check_memory
from ccella.pipeline.footprint import count_peak
from ccella.zoo.families.ccella.autoencoder import build_autoencoder
from ccella.zoo.families.ccella.decode_plans import plan_decode
from ccella.zoo.families.ccella.slabs import Moments, decode_in_slabs
from ccella.zoo.families.ccella.stages import decode_latent
from ccella.zoo.registry import find_card

CONFIG = {"channels": [8, 8, 16], "num_res_blocks": [1, 2, 1], "norm_num_groups": 4}


def make(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = build_autoencoder({**CONFIG, **changes}).eval()
        for parameter in autoencoder.parameters():
            if parameter.ndim == 1:
                # Norms that change nothing would hide a wrong one.
                parameter.data.add_(torch.randn(parameter.shape), alpha=0.2)
    return autoencoder


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("planes", [1, 2, 3, 7])
def test_slabs_give_the_image_of_the_whole(transposed, planes):
    autoencoder = make(transposed_upsampling=transposed)
    # A strong gradient along the slabs: statistics of a slab alone would be far from those of the whole.
    z = torch.randn(2, 4, 7, 5, 3, generator=torch.Generator().manual_seed(1))
    z = z + 4 * torch.arange(7.0).view(1, 1, 7, 1, 1)
    with torch.no_grad():
        whole = autoencoder.decode(z)
    assert float((decode_in_slabs(autoencoder, z, planes) - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_moments_of_slabs_are_those_of_the_whole():
    x = 1000 + torch.randn(2, 8, 9, 4, 4, generator=torch.Generator().manual_seed(2))
    moments = Moments(4)
    for slab in x.split([2, 1, 6], dim=2):
        moments.add(slab)
    groups = x.double().view(2, 4, -1)
    assert torch.allclose(moments.mean, groups.mean(-1), rtol=1e-7)
    assert torch.allclose(moments.deviation / moments.count, groups.var(-1, correction=0), rtol=1e-5)


def test_bf16_slabs_are_as_near_to_fp32_as_the_whole_in_bf16():
    autoencoder = make()
    z = torch.randn(1, 4, 8, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        exact = autoencoder.decode(z)
        autoencoder.bfloat16()
        whole = autoencoder.decode(z.bfloat16()).float()
    slabs = decode_in_slabs(autoencoder, z.bfloat16(), 2)
    assert slabs.dtype == torch.bfloat16
    assert float((slabs.float() - exact).std()) < 1.5 * float((whole - exact).std())


class Largest(TorchFunctionMode):
    """The most voxels along x that any convolution was given."""

    def __init__(self):
        super().__init__()
        self.planes = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.conv3d:
            self.planes = max(self.planes, args[0].shape[2])
        return function(*args, **(kwargs or {}))


def test_the_memory_decides_how_an_item_is_decoded(stages):
    autoencoder, card = stages.autoencoder, stages.card
    z = torch.randn(1, 12, 8, 4, 2, generator=torch.Generator().manual_seed(4))
    whole = plan_decode(autoencoder, (8, 4, 2), 3, 2**40)
    assert (whole.batch, whole.planes) == (3, None)
    single = plan_decode(autoencoder, (8, 4, 2), 3, whole.memory_bytes - 1)
    assert (single.batch, single.planes) == (1, None)
    slabs = plan_decode(autoencoder, (8, 4, 2), 3, single.memory_bytes - 1)
    assert slabs.batch == 1
    assert 1 <= slabs.planes < 8
    assert slabs.memory_bytes < single.memory_bytes
    images = []
    with torch.no_grad():
        for plan in (whole, single, slabs):
            with Largest() as largest:
                images.append(decode_latent(card, autoencoder, z, memory_bytes=plan.memory_bytes))
            # The first convolution, of a single voxel, takes the latent's 8 planes at once.
            assert largest.planes <= (32 if plan.planes is None else max(8, 4 * plan.planes + 2))
    for image in images[1:]:
        assert float((image - images[0]).abs().max()) < 1e-5
    with pytest.raises(InputError, match="does not suffice") as caught:
        plan_decode(autoencoder, (8, 4, 2), 3, 1000)
    assert "Give --memory 1MB or more" in caught.value.remedy


def test_more_memory_never_means_thinner_slabs():
    autoencoder = make()
    previous = 0
    for memory in range(2**18, 2**24, 2**18):
        try:
            plan = plan_decode(autoencoder, (32, 16, 16), 1, memory)
        except InputError:
            assert previous == 0
            continue
        assert plan.memory_bytes <= memory
        planes = math.inf if plan.planes is None else plan.planes
        assert planes >= previous
        previous = planes


def test_memory_is_checked_before_anything_is_sampled(stages):
    with pytest.raises(InputError, match="does not suffice"):
        check_memory(stages.card, stages.autoencoder, 1000, stages.runtime)
    check_memory(stages.card, stages.autoencoder, None, stages.runtime)
    check_memory(stages.card, None, 1000, stages.runtime)
    with pytest.raises(InputError, match="runtime onnx keeps to none"):
        check_memory(stages.card, stages.autoencoder, 10**9, replace(stages.runtime, name="onnx"))


def test_the_command_line_decodes_within_a_memory(stages, tiny_model, prompts, tmp_path, largest_difference, capsys):
    stages.sample(prompts[:1], tmp_path / "l", latents_only=True)
    words = ["decode", str(tmp_path / "l"), "--model", str(tiny_model), "--device", "cpu", "-q"]
    for memory in ("8GB", "0.3MB"):
        assert run([*words, "--memory", memory, "-o", str(tmp_path / memory)]) == 0
    assert largest_difference(tmp_path / "8GB", tmp_path / "0.3MB") < 1e-4
    for memory, message in (("0.01MB", "does not suffice"), ("8", "is not a memory"), ("-1GB", "is not a memory")):
        assert run([*words, "--memory", memory, "-o", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_tensors_keep_to_the_plan_at_full_size(dtype):
    card = find_card("ccella-pp")
    with torch.device("meta"):
        autoencoder = build_autoencoder(card.part("autoencoder").config).eval()
    # Tensors without memory: nothing of this size is computed.
    with FakeTensorMode():
        autoencoder._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype))
        known = list(autoencoder.parameters())
        z = torch.zeros(1, 4, 64, 64, 32, dtype=dtype)
        whole = count_peak(lambda: autoencoder.decode(z), known=known)
        assert whole < plan_decode(autoencoder, (64, 64, 32), 1, 2**40).memory_bytes
        plan = plan_decode(autoencoder, (64, 64, 32), 3, 2 * 2**30 * dtype.itemsize)
        slabs = count_peak(partial(decode_in_slabs, autoencoder, z, plan.planes), known=known)
        assert slabs < plan.memory_bytes
        # The whole has the input, the output and the normalised copy of a layer at once.
        assert slabs < 0.65 * whole

"""One step of the published U-Net: MONAI's classes against ours, with the same random weights.

    python bench/unet_step.py

The latent is 12x64x64x32, batch 1, the context 256 tokens; the adapter, which sampling runs before its loop, is left
out of both. All variants run in this process, in turn.
"""

import argparse
import copy
import time
from typing import Any

import torch
from machine import report
from plain_step import Denoiser

from ccella.export.layouts import choose_layouts
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

PLAIN, FP32, BF16 = "MONAI fp32", "ccella fp32", "ccella bf16"


def build(card: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our denoiser with weights from a fixed seed, none of them zero, and MONAI's with the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: torch.nn.Module = load_family(card.family).build(card.part("denoiser"))
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
    plain = Denoiser(dict(card.part("denoiser").config))
    plain.load_state_dict(network.state_dict(), strict=True)
    return network.eval().requires_grad_(False), plain.eval().requires_grad_(False)


@torch.no_grad()
def main() -> None:
    """Measures and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps, after one that warms up")
    options = parser.parse_args()
    card = find_card("ccella-pp")
    network, plain = build(card)
    half = copy.deepcopy(network).to(torch.bfloat16)
    choose_layouts(network)
    choose_layouts(half)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, *card.latent_shape, generator=generator)
    context = torch.randn(1, 256, card.part("denoiser").config["adapter"]["width"], generator=generator)
    inputs = (z, torch.tensor([500]), context, torch.tensor([[30.0, 70.0]]), torch.tensor([card.image.spacing_mm]))
    variants = {PLAIN: (plain, torch.float32), FP32: (network, torch.float32), BF16: (half, torch.bfloat16)}
    times: dict[str, list[float]] = {name: [] for name in variants}
    outputs: dict[str, torch.Tensor] = {}
    for _ in range(options.repeats + 1):
        for name, (model, dtype) in variants.items():
            given = [value.to(dtype) if value.is_floating_point() else value for value in inputs[:-1]]
            started = time.perf_counter()
            outputs[name] = model.unet(*given, inputs[-1]).float()  # type: ignore[operator]
            times[name].append(time.perf_counter() - started)
    seconds = {name: min(values[1:]) for name, values in times.items()}
    largest = float(outputs[PLAIN].abs().max())
    rows: list[tuple[str, Any]] = [("U-Net latent", "12x64x64x32, batch 1"), ("threads", torch.get_num_threads())]
    for name in variants:
        difference = float((outputs[name] - outputs[PLAIN]).abs().max()) / largest
        ratio = seconds[name] / seconds[PLAIN]
        rows.append(
            (f"U-Net step, {name}", f"{seconds[name]:.3g} s ({ratio:.2f}), difference {difference:.1e} of the largest")
        )
    report("unet_step", rows)


if __name__ == "__main__":
    main()

"""What a U-Net step would gain from two things that are not done: torch.compile, and keys and values made beforehand.

    python bench/step_options.py                minutes: the compiler works on one U-Net
    python bench/step_options.py --no-compile   the share of keys and values alone, which is counted and not timed

The bundled model's step with guidance (a batch of 2) on this machine's CPU in fp32, by PyTorch as it is and by
torch.compile; and for the bundled and the published model the operations of the cross-attention's key and value
projections beside those of a whole step.
"""

import argparse
import time
from typing import Any

import torch
from machine import report
from monai.networks.blocks.crossattention import CrossAttentionBlock
from torch._subclasses.fake_tensor import FakeTensorMode

from ccella.export.runtimes import choose_runtime
from ccella.pipeline.flops import count_flops
from ccella.zoo.card import Card
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

BUNDLED, PUBLISHED = "ccella-pp/phantom", "ccella-pp"
Inputs = tuple[torch.Tensor, ...]


def make_inputs(card: Card, batch: int) -> Inputs:
    """A U-Net's latent, timesteps, context, class and spacing."""
    adapter = card.part("denoiser").config["adapter"]
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, *card.latent_shape, generator=generator),
        torch.full((batch,), 500),
        torch.randn(batch, adapter["latents"], adapter["width"], generator=generator),
        torch.tensor([[30.0, 70.0]] * batch),
        torch.tensor([card.image.spacing_mm] * batch),
    )


def count_projections(card: Card) -> str:
    """Operations of the key and value projections of one item's step, and of all of it."""
    with FakeTensorMode():
        unet = load_family(card.family).build(card.part("denoiser")).unet
    words = card.part("denoiser").config["adapter"]["latents"]
    blocks = [block for block in unet.modules() if isinstance(block, CrossAttentionBlock)]
    projected = sum(2 * words * (block.to_k.weight.numel() + block.to_v.weight.numel()) for block in blocks)
    inputs = make_inputs(card, 1)
    step = count_flops(lambda: unet(*inputs))
    return f"{projected / 1e9:.3g} of {step / 1e9:.4g} GFLOP ({projected / step:.2%})"


def time_step(unet: Any, inputs: Inputs, repeats: int) -> tuple[float, float, torch.Tensor]:
    """Seconds of the first call and of the fastest later one, and what it gave."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = unet(*inputs)
        seconds.append(time.perf_counter() - started)
    return seconds[0], min(seconds[1:]), result


@torch.no_grad()
def main() -> None:
    """Counts, measures and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps")
    options = parser.parse_args()
    card = find_card(BUNDLED)
    rows: list[tuple[str, Any]] = [
        (f"key and value projections in a step, {name}", count_projections(find_card(name)))
        for name in (BUNDLED, PUBLISHED)
    ]
    if options.compile:
        unet: Any = choose_runtime("torch", card, device="cpu", precision="fp32").load(card, "denoiser").unet
        inputs = make_inputs(card, 2)
        _, plain, expected = time_step(unet, inputs, options.repeats)
        first, compiled, found = time_step(torch.compile(unet), inputs, options.repeats)
        difference = float((found - expected).abs().max() / expected.abs().max())
        rows += [
            ("threads", torch.get_num_threads()),
            (f"U-Net step of {BUNDLED}, batch 2", f"{plain:.3g} s"),
            ("torch.compile, first step", f"{first:.3g} s"),
            ("torch.compile, later steps", f"{compiled:.3g} s ({compiled / plain:.2f}), difference {difference:.1e}"),
        ]
        saved = plain - compiled
        rows.append(("steps until compiling pays", f"{first / saved:.0f}" if saved > 0 else "never: no step is faster"))
    report("step_options", rows)


if __name__ == "__main__":
    main()

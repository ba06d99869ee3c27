"""The published sizes on this machine: one denoiser step and one decode of 256x256x128, with random weights.

    python bench/full_size.py

Each part runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import subprocess
import sys
import time

import torch
from machine import peak_memory_gib, report

from ccella.export.layouts import choose_layouts
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card


@torch.no_grad()
def measure(part: str, repeats: int) -> None:
    card = find_card("ccella-pp")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_family(card.family).build(card.part(part)).eval()
    choose_layouts(network)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, *card.latent_shape, generator=generator)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        if part == "denoiser":
            text = torch.randn(1, 200, card.part(part).config["adapter"]["text_width"], generator=generator)
            out, _ = network(z, torch.tensor([500]), text, None, torch.tensor([card.image.spacing_mm]))
        else:
            out = network.decode(z[:, :4])
        seconds.append(time.perf_counter() - started)
        if not torch.isfinite(out).all():
            raise SystemExit(f"The {part} gave values that are not finite.")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    memory, millions = peak_memory_gib(), parameters / 1e6
    print(f"{min(seconds):.1f} s, peak {memory:.1f} GiB, {millions:.1f} M parameters, output {list(out.shape)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("denoiser", "autoencoder"))
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    if options.part:
        measure(options.part, options.repeats)
        return
    rows = []
    for part, label in (
        ("denoiser", "ccella-pp denoiser, one step (adapter and U-Net)"),
        ("autoencoder", "decode of one sequence"),
    ):
        command = [sys.executable, __file__, "--part", part, "--repeats", str(options.repeats)]
        rows.append((label, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()))
    report("full_size", rows)


if __name__ == "__main__":
    main()

"""One decode by the published autoencoder's sizes: MONAI's classes against ours, with the same random weights.

    python bench/decode.py                      a 64x64x8 latent (256x256x32 voxels)
    python bench/decode.py --latent 16,16,8     a small one

The plain variant is MONAI's AutoencoderKlMaisi, num_splits 2, norm_float16 off. Each variant runs in a process of
its own, so that its peak memory is its own; the peak is counted above what the process held before its first decode.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import peak_memory_gib, report
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from ccella.export.layouts import choose_layouts
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

VARIANTS = ("MONAI fp32", "ccella fp32", "ccella fp32, slabs", "ccella bf16", "ccella bf16, slabs")
# Slabs of eight planes of the default latent.
SLAB_PART = 0.72


def ours(card: Any) -> torch.nn.Module:
    """The autoencoder with weights from a fixed seed; norms and biases too, or a wrong norm would not show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: torch.nn.Module = load_family(card.family).build(card.part("autoencoder")).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return network


def plain(card: Any) -> torch.nn.Module:
    """MONAI's network with the same weights."""
    config = card.part("autoencoder").config
    network = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=config["num_res_blocks"],
        num_channels=config["channels"],
        attention_levels=(False,) * len(config["channels"]),
        latent_channels=config["latent_channels"],
        norm_num_groups=config["norm_num_groups"],
        norm_eps=config["norm_eps"],
        num_splits=2,
        norm_float16=False,
        save_mem=False,
    )
    network.load_state_dict(ours(card).state_dict(), strict=True)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def measure(name: str, shape: tuple[int, ...], repeats: int, memory_gb: float, out: Path) -> None:
    """Times one variant, stores its image and prints the figures as JSON."""
    card = find_card("ccella-pp")
    family = load_family(card.family)
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    network = (plain(card) if name.startswith("MONAI") else ours(card)).to(dtype)
    if not name.startswith("MONAI"):
        choose_layouts(network)
    each = card.latent.channels_per_image_channel
    z = torch.randn(1, each, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    memory = 2**50
    if "slabs" in name:
        whole = family.plan_decode(network, shape, 1, memory).memory_bytes
        memory = int(memory_gb * 2**30) if memory_gb else int(SLAB_PART * whole)
    before = peak_memory_gib()
    walls, used = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        if name.startswith("MONAI"):
            x = network.decode(z).clamp(0.0, 1.0)  # type: ignore[operator]
        else:
            x = family.decode_latent(card, network, z, memory_bytes=memory)
        walls.append(time.perf_counter() - wall)
        used.append(time.process_time() - processor)
    torch.save(x.float(), out)
    print(json.dumps({"s": min(walls), "cpu_s": min(used), "gib": peak_memory_gib() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", default="64,64,8", help="X,Y,Z of the latent")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--memory", type=float, default=0.0, help=f"GB for the slabs; {SLAB_PART} of the whole's without"
    )
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(int(size) for size in options.latent.split(","))
    if options.variant:
        measure(options.variant, shape, options.repeats, options.memory, options.out)
        return
    rows: list[tuple[str, Any]] = [("latent decoded", options.latent), ("threads", torch.get_num_threads())]
    images: dict[str, torch.Tensor] = {}
    first = None
    with tempfile.TemporaryDirectory() as scratch:
        for name in VARIANTS:
            out = Path(scratch) / "image.pt"
            command = [sys.executable, __file__, "--variant", name, "--latent", options.latent, "--out", str(out),
                       "--repeats", str(options.repeats), "--memory", str(options.memory)]  # fmt: skip
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            figures = json.loads(line)
            first = first or figures
            images[name] = torch.load(out, weights_only=True)
            difference = images[name] - images["MONAI fp32"]
            error = float(difference.square().mean())
            psnr = 10 * math.log10(1 / error) if error else math.inf
            rows.append(
                (f"decode, {name}",
                 f"{figures['s']:.3g} s ({figures['s'] / first['s']:.2f}), {figures['cpu_s']:.3g} CPU s "
                 f"({figures['cpu_s'] / first['cpu_s']:.2f}), peak {figures['gib']:.2f} GiB "
                 f"({figures['gib'] / (first['gib'] or math.nan):.2f}), "
                 f"difference {float(difference.abs().max()):.1e}, "
                 f"PSNR {psnr:.0f} dB")
            )  # fmt: skip
    report("decode" if options.latent == "64,64,8" else "decode_small", rows)


if __name__ == "__main__":
    main()

"""What decoding one sequence takes beside the weights, against the limit that `--memory` sets and the plan's estimate.

    python bench/decode_memory.py                       a 32x32x32 latent (128x128x128 voxels)
    python bench/decode_memory.py --latent 64,64,32     the published size: minutes and 12 GB

Random weights in the published sizes. Each row is a process of its own, which decodes once; its peak is the largest
resident set while it decodes, above that before. Nothing is timed.
"""

import argparse
import subprocess
import sys

import torch
from decode import ours
from machine import report

from ccella.export.devices import computes_in_bf16
from ccella.export.layouts import choose_layouts
from ccella.pipeline.memory import read_peak, reset_peak
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

GIB = 2**30
# Limits as parts of what the plan expects the whole to take: just enough for it, and two for slabs.
PARTS = (1.0, 0.8, 0.6)


@torch.no_grad()
def measure(precision: str, shape: tuple[int, ...], part: float) -> None:
    """Decodes once and prints limit, plan, estimate and peak."""
    card = find_card("ccella-pp")
    family = load_family(card.family)
    network = ours(card).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    choose_layouts(network)
    whole = family.plan_decode(network, shape, 1, 2**50).memory_bytes
    limit = int(part * whole)
    plan = family.plan_decode(network, shape, 1, limit)
    parameter = next(network.parameters())
    z = torch.randn(1, card.latent.channels_per_image_channel, *shape, generator=torch.Generator().manual_seed(0))
    # Kernels are prepared once; that is no memory of this decode.
    family.decode_latent(card, network, z[:, :, :4, :4, :4].to(parameter.dtype))
    reset_peak(parameter.device)
    before = read_peak(parameter.device)
    family.decode_latent(card, network, z.to(parameter.dtype), memory_bytes=limit)
    after = read_peak(parameter.device)
    if before is None or after is None:
        raise SystemExit("This system does not tell a process's largest resident set.")
    how = "whole" if plan.planes is None else f"slabs of {plan.planes} planes"
    print(
        f"--memory {limit / GIB:.2f} GiB: {how}, estimate {plan.memory_bytes / GIB:.2f}, "
        f"peak {(after - before) / GIB:.2f} GiB ({(after - before) / limit:.2f} of the limit)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", default="32,32,32", help="X,Y,Z of the latent")
    parser.add_argument("--row", nargs=2, metavar=("PRECISION", "PART"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(int(size) for size in options.latent.split(","))
    if options.row:
        measure(options.row[0], shape, float(options.row[1]))
        return
    rows = [("latent decoded", options.latent)]
    bf16 = computes_in_bf16(torch.device("cpu"))
    for precision in ("fp32", "bf16") if bf16 else ("fp32",):
        for part in PARTS:
            command = [sys.executable, __file__, "--latent", options.latent, "--row", precision, str(part)]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            rows.append((f"decode, {precision}, {part:g} of the whole's estimate", line))
    if not bf16:
        rows.append(("decode, bf16", "not measured: this processor has no instructions for it"))
    report(
        "decode_memory" if options.latent == "32,32,32" else "decode_memory_" + options.latent.replace(",", "x"), rows
    )


if __name__ == "__main__":
    main()

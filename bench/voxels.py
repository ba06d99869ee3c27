"""Time of an exam by its size: step and decode on grids of growing size, and the straight line through them.

    python bench/voxels.py --model ccella-pp/phantom --shapes 32,32,16 48,48,32 64,64,32 96,96,48

The model's own networks on latents of each size, with random weights where it has none; nothing that it was not trained
for is looked at.
"""

import argparse
import math
from dataclasses import replace

import numpy as np
from machine import report
from samplers import fit_line

from ccella.export.runtimes import choose_runtime
from ccella.pipeline.sampler_settings import choose_settings
from ccella.pipeline.speed import Networks, load_networks, measure_stages
from ccella.zoo.registry import find_card


def at_shape(networks: Networks, shape: tuple[int, ...]) -> Networks:
    """The same networks with a card of another grid."""
    return replace(networks, card=replace(networks.card, image=replace(networks.card.image, shape=shape)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--shapes", nargs="+", default=["32,32,16", "48,48,32", "64,64,32", "80,80,48", "96,96,48"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    card = find_card(options.model)
    runtime = choose_runtime("torch", card, device=options.device, precision=options.precision)
    networks, settings = load_networks(card, runtime, random_weights=True), choose_settings(card)
    voxels, seconds = [], []
    rows: list[tuple[str, object]] = []
    for text in options.shapes:
        shape = tuple(int(size) for size in text.split(","))
        stages = {
            stage.stage: stage
            for stage in measure_stages(at_shape(networks, shape), runtime, settings, repeats=options.repeats)
        }
        voxels.append(math.prod(shape))
        seconds.append(stages["exam"].seconds)
        step, decode, exam = (stages[name].seconds for name in ("step", "decode", "exam"))
        label = f"{card.id}, {' x '.join(map(str, shape))}, {settings.steps} steps"
        rows.append((label, f"step {step:.4g} s, decode {decode:.4g} s, exam {exam:.4g} s"))
    start, slope, r2 = fit_line(voxels, seconds)
    rows.append(("seconds of an exam", f"{start:.3g} + {slope * 1e6:.3g} per million voxels, R squared {r2:.4f}"))
    power = float(np.polyfit(np.log(voxels), np.log(seconds), 1)[0])
    rows.append(("power of the number of voxels", f"{power:.2f}"))
    report("voxels", rows, {"voxels": voxels, "seconds": seconds})


if __name__ == "__main__":
    main()

"""How much of an exam survives the autoencoder: PSNR per sequence on unseen phantoms and, where given, on real exams.

python bench/autoencoder.py --real ../shared/data/prostatex
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from machine import report
from prompt_fidelity import TEST_SEED, run

from ccella.imaging.exams import find_exams, load_exam
from ccella.zoo.family import load_family
from ccella.zoo.loading import load_part
from ccella.zoo.registry import find_card


@torch.no_grad()
def measure(folder: Path, model: str) -> dict[str, list[float]]:
    """PSNR in dB by sequence for each exam of a folder; images in 0..1, so the peak is 1."""
    card = find_card(model)
    family, network = load_family(card.family), load_part(card, "autoencoder")
    names = [channel.name for channel in card.image.channels]
    figures = defaultdict(list)
    for exam in find_exams(folder, names):
        x = torch.from_numpy(load_exam(exam, card.image).array)[None]
        z, _ = family.encode_image(card, network, x)
        error = (family.decode_latent(card, network, z) - x).square().mean((0, 2, 3, 4))
        for name, value in zip(names, error, strict=True):
            figures[name].append(float(-10 * value.log10()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--real", type=Path, help="folder of real exams")
    parser.add_argument("-n", type=int, default=100)
    options = parser.parse_args()
    rows: list[tuple[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "phantoms"
        run("phantom", "-n", options.n, "--seed", TEST_SEED, "-o", folder, "-q")
        for name, values in measure(folder, options.model).items():
            spread = f"mean of {len(values)} unseen phantoms, {np.min(values):.1f} to {np.max(values):.1f}"
            rows.append((f"{name} PSNR", f"{np.mean(values):.1f} dB ({spread})"))
    if options.real:
        for name, values in measure(options.real, options.model).items():
            rows.append((f"{name} PSNR, real exams", ", ".join(f"{value:.1f} dB" for value in values)))
    report("autoencoder", rows)


if __name__ == "__main__":
    main()

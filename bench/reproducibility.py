"""The same seed gives the same bytes; an item alone, in a batch of 5 and in a shard agrees.

python bench/reproducibility.py
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from machine import report
from prompt_fidelity import run

from ccella.imaging.files import read_volume
from ccella.zoo.registry import find_card

ROOT = Path(__file__).resolve().parents[1]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.nii.gz"))}


def largest_difference(a: Path, b: Path, model: str) -> float:
    """Largest absolute difference between the volumes that two runs share, in units of each channel's output range."""
    worst = 0.0
    for channel in find_card(model).image.channels:
        low, high = channel.intensity.get("output") or (channel.intensity["lower"], channel.intensity["upper"])
        for path in b.rglob(f"*_{channel.name}.nii.gz"):
            twin = next(a.rglob(path.name))
            worst = max(worst, float(np.abs(read_volume(path).data - read_volume(twin).data).max()) / (high - low))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ccella-pp/phantom")
    model = parser.parse_args().model
    report_text = (ROOT / "examples" / "report.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        prompts = [{"id": f"item{i}", "prompt": report_text + f" Addendum {i}.", "seed": i} for i in range(5)]
        (base / "five.jsonl").write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
        (base / "one.jsonl").write_text(json.dumps(prompts[1]), encoding="utf-8")
        sample = ("sample", "--model", model, "-q", "--prompt")
        run(*sample, base / "one.jsonl", "-o", base / "first")
        run(*sample, base / "one.jsonl", "-o", base / "second")
        run(*sample, base / "five.jsonl", "-o", base / "batch", "--batch-size", 5)
        run(*sample, base / "five.jsonl", "-o", base / "shard", "--shard", "2/3")
        rows = [
            (
                "the same seed twice",
                "same bytes" if digests(base / "first") == digests(base / "second") else "bytes differ",
            ),
            (
                "alone against a batch of 5",
                f"{largest_difference(base / 'batch', base / 'first', model):.1e} of the range",
            ),
            (
                "shard 2/3 against the batch",
                f"{largest_difference(base / 'batch', base / 'shard', model):.1e} of the range",
            ),
        ]
    report("reproducibility", rows)


if __name__ == "__main__":
    main()

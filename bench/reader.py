"""Trains the reader for prompt fidelity, which has seen phantoms only and no generated image, again.

python bench/reader.py --training data/phantom -o zoo/bundled/phantom-reader.safetensors
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ccella.imaging.exams import find_exams, load_exam
from ccella.imaging.files import read_volume
from ccella.imaging.phantom.findings import Findings
from ccella.imaging.spec import ImageSpec
from ccella.zoo.loading import sha256_file
from ccella.zoo.phantom_reader import POOL, build_reader, pool
from ccella.zoo.registry import DEFAULT_MODEL, find_card

STEPS = 900
BATCH = 4
# Background is most of a volume; lesions are the question.
CLASS_WEIGHTS = (0.2, 1.0, 1.0, 3.0, 3.0)


def truth_labels(anatomy: np.ndarray, lesions: np.ndarray, findings: Findings) -> np.ndarray:
    """Class of each voxel: 0 other, 1 peripheral zone, 2 rest of the gland, 3 and 4 a lesion in either."""
    labels = np.zeros(anatomy.shape, np.int64)
    labels[anatomy == 1] = 1
    labels[np.isin(anatomy, (2, 3, 4, 6))] = 2
    for number, lesion in enumerate(findings.lesions, 1):
        labels[lesions == number] = 3 if lesion.zone == "PZ" else 4
    return labels


def load_training_exams(folder: Path, spec: ImageSpec, count: int) -> tuple[Tensor, Tensor]:
    """Images N 3 X Y Z (float16) and labels N X Y Z of the first phantoms of a folder."""
    import json

    images, labels = [], []
    for exam in find_exams(folder, [channel.name for channel in spec.channels])[:count]:
        images.append(pool(torch.from_numpy(load_exam(exam, spec).array)).half())
        anatomy = read_volume(folder / "masks" / f"{exam.id}_anatomy.nii.gz").data
        lesions = read_volume(folder / "masks" / f"{exam.id}_lesions.nii.gz").data
        findings = Findings.from_dict(json.loads((folder / "findings" / f"{exam.id}.json").read_text(encoding="utf-8")))
        truth = truth_labels(anatomy, lesions, findings)[POOL // 2 :: POOL, POOL // 2 :: POOL]
        labels.append(torch.from_numpy(truth).to(torch.uint8))
    return torch.stack(images), torch.stack(labels)


def _batches(count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // BATCH * BATCH].split(BATCH)


def train_reader(images: Tensor, labels: Tensor, *, seed: int = 0, log: bool = True) -> nn.Module:
    """Trains the reader with weighted cross-entropy; left-right flips double the anatomy it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_reader()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    weights = torch.tensor(CLASS_WEIGHTS)
    for step, chosen in zip(range(STEPS), _batches(len(images), seed), strict=False):
        x, y = images[chosen].float(), labels[chosen].long()
        if step % 2:
            x, y = x.flip(2), y.flip(1)
        scores = network(x)
        probabilities = scores.softmax(1)[:, 3:].sum(1)
        lesion = (y >= 3).float()
        overlap = 1 - (2 * (probabilities * lesion).sum() + 1) / ((probabilities + lesion).sum() + 1)
        loss = nn.functional.cross_entropy(scores, y, weight=weights) + 0.5 * overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if log and step % 100 == 0:
            print(f"reader: step {step} of {STEPS}, loss {loss.item():.3f}", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=Path, required=True, help="phantoms with their masks")
    parser.add_argument("-n", type=int, default=600)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    spec = find_card(DEFAULT_MODEL).image
    network = train_reader(*load_training_exams(options.training, spec, options.n))
    write_tensors(options.output, network.state_dict())
    print(f"{options.output}: SHA-256 {sha256_file(options.output)}, to be stated in zoo/phantom_reader.py")


def write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Stores the weights in half precision, as they ship."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in sorted(state.items())}, path)


if __name__ == "__main__":
    main()

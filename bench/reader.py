"""The reader for prompt fidelity: a small segmentation network that has seen phantoms only, no generated image."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from ccella.imaging.exams import find_exams, load_exam
from ccella.imaging.files import read_volume
from ccella.imaging.phantom.findings import Findings
from ccella.imaging.spec import ImageSpec
from ccella.metrics.prompt_fidelity import Reading, read_exam

STEPS = 900
BATCH = 4
# The reader looks at pairs of pixels: voxels of 3 mm along each axis are enough for lesions of 7 mm and more, at a
# quarter of the work.
POOL = 2
# Background is most of a volume; lesions are the question.
CLASS_WEIGHTS = (0.2, 1.0, 1.0, 3.0, 3.0)


def build_reader() -> nn.Module:
    """Three pooled sequences B 3 x y z in 0..1 to five class scores; about 0.3 M parameters."""
    return UNet(
        spatial_dims=3, in_channels=3, out_channels=5, channels=(16, 32, 48, 64), strides=(2, 2, 2), num_res_units=1,
        norm=("instance", {"affine": True}),
    )  # fmt: skip


def pool(image: Tensor) -> Tensor:
    """Means of POOL x POOL pixels in each axial slice, C x y z."""
    return nn.functional.avg_pool3d(image, (POOL, POOL, 1))


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


def load_or_train_reader(path: Path, folder: Path, spec: ImageSpec, count: int) -> nn.Module:
    """The reader stored at `path`, or a newly trained one, which is then stored there."""
    from safetensors.torch import load_file, save_file

    if path.is_file():
        network = build_reader()
        network.load_state_dict(load_file(path), strict=True)
        return network.eval()
    network = train_reader(*load_training_exams(folder, spec, count))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return network


@torch.no_grad()
def look(network: nn.Module, image: np.ndarray, spacing_mm: Sequence[float]) -> Reading:
    """The reading of one exam [3, x, y, z] in 0..1 with ADC as its last sequence."""
    pooled = pool(torch.from_numpy(image).float())
    probabilities = network(pooled[None]).softmax(1)[0].numpy()
    return read_exam(probabilities, pooled[2].numpy(), (spacing_mm[0] * POOL, spacing_mm[1] * POOL, spacing_mm[2]))


def truth_of(findings: Mapping[str, object]) -> "tuple[bool, str | None, str | None, float | None]":
    """Positive, and side, zone and diameter of the index lesion, from a findings record."""
    parsed = Findings.from_dict(findings)
    if not parsed.lesions:
        return False, None, None, None
    index = parsed.lesions[0]
    return True, index.side, index.zone, float(index.diameter_mm)

"""Does the memorisation audit find planted copies of phantoms, and only these? And does it stream?

Of the training phantoms some are planted among independent ones: as they are, mirrored, and with noise of 5 % of their
range. `--scale 4000` also audits that many random images against as many, made when they are asked for, and prints the
peak memory.

    python bench/memorisation.py --scale 4000
"""

import argparse
import time
from pathlib import Path

import numpy as np
from machine import peak_memory_gib, report

from ccella.evaluation.image_features import AUDIT_GRID
from ccella.evaluation.memorisation import Pool, audit_memorisation
from ccella.imaging.exams import find_exams, load_exam
from ccella.imaging.phantom.dataset import write_phantoms
from ccella.metrics.memorisation import Images, find_nearest, shrink
from ccella.zoo.registry import DEFAULT_MODEL, find_card

SEEDS = {"training": 41_000, "independent": 42_000}
NOISE = 0.05
KINDS = ("exact", "mirrored", "noisy")


class RandomImages(Images):
    """Images that exist only while they are looked at."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> np.ndarray:
        shape = (AUDIT_GRID,) * 3
        return np.random.default_rng([self.seed, index]).random(shape, dtype=np.float32)


def load_phantoms(work: Path, name: str, count: int) -> tuple[np.ndarray, list[str]]:
    """Phantoms in 0..1, [n, sequence, x, y, z], and their ids."""
    spec = find_card(DEFAULT_MODEL).image
    folder = work / f"{name}-{count}"
    for _ in write_phantoms(folder, count, SEEDS[name], workers=2):
        pass
    exams = find_exams(folder, [channel.name for channel in spec.channels])
    return np.stack([load_exam(exam, spec).array.astype(np.float16) for exam in exams]), [exam.id for exam in exams]


def plant(training: np.ndarray, each: int) -> tuple[np.ndarray, list[str], list[int]]:
    """Copies of the first training exams: arrays, ids that name the kind, and which exam each is of."""
    rng = np.random.default_rng(0)
    copies, ids, sources = [], [], []
    for number, kind in enumerate(KINDS):
        for i in range(each):
            source = number * each + i
            image = training[source].astype(np.float32)
            if kind == "mirrored":
                image = image[:, ::-1]
            elif kind == "noisy":
                image = np.clip(image + NOISE * rng.normal(size=image.shape), 0, 1)
            copies.append(image)
            ids.append(f"{kind}-{i}")
            sources.append(source)
    return np.stack(copies), ids, sources


def audit_sequence(training: np.ndarray, independent: np.ndarray, copies: np.ndarray, ids: list[list[str]]) -> set[str]:
    """Ids that the audit of one sequence flags, arrays [n, x, y, z]."""
    small = [
        [shrink(image, AUDIT_GRID) for image in images.astype(np.float32)] for images in (training, independent, copies)
    ]
    known = Pool(small[0], ids[0], ids[0])
    queries = Pool([*small[1], *small[2]], [*ids[1], *ids[2]], [*ids[1], *ids[2]])
    return set(audit_memorisation(queries, known, None, seed=0)["flagged"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--copies", type=int, default=20, help="of each kind")
    parser.add_argument("--scale", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/evaluate-images"))
    options = parser.parse_args()
    training, training_ids = load_phantoms(options.work, "training", options.n)
    independent, independent_ids = load_phantoms(options.work, "independent", options.n)
    copies, copy_ids, _ = plant(training, options.copies)
    rows: list[tuple[str, object]] = []
    anywhere: set[str] = set()
    for place, channel in enumerate(find_card(DEFAULT_MODEL).image.channels):
        ids = [training_ids, independent_ids, copy_ids]
        flagged = audit_sequence(training[:, place], independent[:, place], copies[:, place], ids)
        anywhere |= flagged
        rows.append((f"found by {channel.name}", _found(flagged, copy_ids)))
        rows.append(
            (f"independent phantoms flagged by {channel.name}", f"{len(flagged & set(independent_ids))} of {options.n}")
        )
    rows.append(("found by any sequence", _found(anywhere, copy_ids)))
    rows.append(("independent phantoms flagged by any", f"{len(anywhere & set(independent_ids))} of {options.n}"))
    if options.scale:
        rows.append(_scale(options.scale))
    report("memorisation", rows)


def _found(flagged: set[str], copy_ids: list[str]) -> str:
    counts = [(kind, [i for i in copy_ids if i.startswith(kind)]) for kind in KINDS]
    return ", ".join(f"{kind} {len(flagged & set(ids))} of {len(ids)}" for kind, ids in counts)


def _scale(count: int) -> tuple[str, object]:
    before, started = peak_memory_gib(), time.perf_counter()
    find_nearest(RandomImages(count, 0), RandomImages(count, 1))
    seconds = time.perf_counter() - started
    text = f"{seconds:.0f} s, peak {peak_memory_gib():.2f} GiB ({before:.2f} GiB before)"
    return f"{count} x {count} images of {AUDIT_GRID}^3, 4 mirrors", text


if __name__ == "__main__":
    main()

"""Do a study's synthetic exams repeat its training exams? On a coarse grid, so that the time has a bound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..imaging.exams import Exam
from ..imaging.spec import ImageSpec

# Synthetic exams compared, as in Niehues 2024; all training exams are.
MOST = 200
# Voxels along an axis after averaging.
COARSE = 32


class CoarseImages(Sequence[np.ndarray]):
    """One sequence of prepared exams, averaged over blocks down to at most COARSE voxels along an axis.

    Args:
        array: Exams x channels x x, y, z; may be memory-mapped, since one image is read at a time.
        channel: Which.
        chosen: Which exams.
    """

    def __init__(self, array: np.ndarray, channel: int, chosen: Sequence[int]) -> None:
        self._array, self._channel, self._chosen = array, channel, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        return average_blocks(self._array[self._chosen[index], self._channel].astype(np.float32), COARSE)


def average_blocks(image: np.ndarray, most: int) -> np.ndarray:
    """Means over blocks of equal size, smaller ones at the far ends, so that no axis has more than `most` voxels."""
    for axis, size in enumerate(image.shape):
        starts = np.arange(0, size, -(-size // most))
        counts = np.diff([*starts, size]).reshape([-1 if each == axis else 1 for each in range(image.ndim)])
        image = np.add.reduceat(image, starts, axis=axis) / counts
    return np.asarray(image, np.float32)


def audit_likeness(
    synthetic: Sequence[Exam], training: Sequence[Exam], spec: ImageSpec, cache: Path, seed: int
) -> dict[str, dict[str, Any]]:
    """The memorisation audit of each sequence, on what the classifiers were trained with.

    Args:
        synthetic: Synthetic exams; at most MOST are drawn.
        training: Real exams to compare them with.
        spec: Of the classifier.
        cache: Folder of prepared exams; what is there is not prepared again.
        seed: Of the drawing.

    Returns:
        By sequence what `audit_memorisation` gives, with how many of the synthetic exams were `audited`; or the
        `problem` that left it without a yardstick.
    """
    from ..evaluation.memorisation import Pool, audit_memorisation
    from ..training.classifier_data import labelled_images

    made = labelled_images(synthetic, spec, cache, name="synthetic")
    real = labelled_images(training, spec, cache, name="training")
    count = min(MOST, len(made))
    chosen = np.sort(np.random.default_rng(seed).choice(len(made), count, replace=False)).tolist()
    every = list(range(len(real)))
    audits: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(spec.channel_names):
        ids, patients = ([names[i] for i in chosen] for names in (made.ids, made.patient_ids))
        pools = (
            Pool(CoarseImages(made.array, place, chosen), ids, patients),
            Pool(CoarseImages(real.array, place, every), real.ids, real.patient_ids),
        )
        try:
            audits[name] = {"audited": count, "of": len(made), **audit_memorisation(*pools, None, seed=seed)}
        except InputError as error:
            audits[name] = {"problem": error.message}
    return audits

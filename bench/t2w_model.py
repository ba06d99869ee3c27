"""The study's two sets of synthetic T2-weighted images beside institution 1's own: are they alike, is the lesion there?

KID of either set against as many of institution 1's phantoms. And the side: in reports of one lesion, which lies in the
peripheral zone, is the image darker where the phantom has its lesion than at the place's mirror image? The share among
the phantoms themselves is the ceiling. A model draws another gland than the phantom's, so that its share falls short of
the ceiling even where it draws what it was told.

    python bench/t2w_model.py runs/study-phantom-short
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from machine import report
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from ccella.evaluation.images import VOLUME, evaluate_images
from ccella.imaging.exams import Exam, find_exams, load_exam
from ccella.imaging.spec import ImageSpec
from ccella.zoo.extractors import DEFAULT_EXTRACTOR, find_extractor, load_extractor
from ccella.zoo.registry import DEFAULT_MODEL, find_card

SEQUENCE = "t2w"
# In-plane and through-plane voxels: generated glands lie a little elsewhere.
SMOOTHING = (1.0, 1.0, 0.5)


def read_masks(phantoms: Path) -> dict[str, np.ndarray]:
    """The lesion's voxels by exam, of exams with a single lesion, in the peripheral zone and on one side."""
    found = {}
    for path in sorted((phantoms / "findings").glob("*.json")):
        lesions = json.loads(path.read_text(encoding="utf-8"))["lesions"]
        if len(lesions) == 1 and lesions[0]["zone"] == "PZ" and lesions[0]["side"] in ("left", "right"):
            mask = nib.load(phantoms / "masks" / f"{path.stem}_lesions.nii.gz")
            found[path.stem] = np.asarray(nib.as_closest_canonical(mask).dataobj) > 0
    return found


def darker_there(exam: Exam, mask: np.ndarray, spec: ImageSpec) -> bool:
    """Whether a T2-weighted image is darker at a lesion's place than at its mirror image."""
    image = gaussian_filter(load_exam(exam, spec).array[0].astype(np.float64), SMOOTHING)
    return bool(image[mask].mean() < image[mask[::-1]].mean())


def share_text(darker: int, exams: int) -> str:
    """A share with Wilson's 95 % interval."""
    low, high = binomtest(darker, exams).proportion_ci(method="wilson")
    return f"{darker / exams:.3f}  [{low:.3f}, {high:.3f}], {darker} of {exams}"


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study whose sets of sequences have samples of their own")
    data: Path = parser.parse_args().study / "data"
    phantoms = data / "institution1"
    samples = {path.name: path for path in sorted(data.glob("synthetic-*"))}
    card = find_card(DEFAULT_MODEL)
    spec = replace(card.image, channels=tuple(c for c in card.image.channels if c.name == SEQUENCE))
    extractor = load_extractor(find_extractor(DEFAULT_EXTRACTOR))
    masks = read_masks(phantoms)
    sets = {name: {exam.id: exam for exam in find_exams(path, [SEQUENCE])} for name, path in samples.items()}
    # The phantoms of the same reports, so that shares are of the same lesions.
    shared = set.intersection(*(set(exams) for exams in sets.values())) & set(masks)
    sets = {"phantoms": {exam.id: exam for exam in find_exams(phantoms, [SEQUENCE])}, **sets}
    rows: list[tuple[str, object]] = []
    for name, exams in sets.items():
        if name in samples:
            found = evaluate_images(
                phantoms, samples[name], template=card, own_grid=True, extractors=[extractor], sequences=[SEQUENCE],
                count=len(exams),
            )  # fmt: skip
            views = found.document["sequences"][SEQUENCE]["fidelity"][DEFAULT_EXTRACTOR]
            kid = views[VOLUME]["kid"]
            low, high = kid["interval"]
            rows.append((f"{name}: KID, {found.document['n']} images", f"{kid['value']:.4f}  [{low:.4f}, {high:.4f}]"))
        darker = sum(darker_there(exams[identifier], masks[identifier], spec) for identifier in shared)
        rows.append((f"{name}: darker at the lesion than at its mirror image", share_text(darker, len(shared))))
    report("t2w_model", rows)


if __name__ == "__main__":
    main()

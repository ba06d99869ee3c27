"""`evaluate latents`: the memorisation audit without decoding, on what `encode` and `sample --latents` write."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.errors import InputError
from ..metrics.memorisation import shrink
from ..pipeline.latents import read_latent, read_tensors
from ..pipeline.provenance import STATISTICS, versions
from ..zoo.loading import sha256_file
from ..zoo.record import Record
from ..zoo.runs import read_run
from .image_features import AUDIT_GRID
from .image_sets import LEAST_EXAMS
from .images import SCHEMA
from .memorisation import Pool, audit_memorisation

# The first axis of a latent is its channels.
MIRRORS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (3,))


@dataclass(frozen=True)
class Latents:
    """Latents that are read one at a time, [channel, x, y, z], means over cells along the last three axes."""

    records: tuple[Record, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> np.ndarray:
        latent = read_latent(self.records[index], self.shape).numpy()
        return np.stack([shrink(channel, AUDIT_GRID) for channel in latent])


def evaluate_latents(real: Path, synthetic: Path, *, holdout: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Looks for training exams among sampled latents.

    Latents of one autoencoder and one set of sequences are due; scales of channels do not matter to a copy, but each
    channel counts by its variance.

    Args:
        real: Run folder of `ccella encode`: what the model was trained on.
        synthetic: Run folder of `ccella sample --latents`, or of `encode`.
        holdout: Encoded exams that the model has not seen.
        seed: Seed of the choice of independent exams, where no holdout is given.

    Returns:
        JSON-able: the audit of `memorisation_audit.audit_memorisation`.

    Raises:
        InputError: A folder is no run with latents, has fewer than 10, an id twice, latents of another shape, or those
            of another autoencoder; see `memorisation_audit.audit_memorisation` for a holdout that is none.
    """
    sources = {"real": real, "synthetic": synthetic} | ({} if holdout is None else {"holdout": holdout})
    pools: dict[str, Pool] = {}
    shape: tuple[int, ...] | None = None
    for label, folder in sources.items():
        pools[label], shape = _open(folder, label, shape)
    _check_autoencoders({folder: pools[label] for label, folder in sources.items()})
    audit = audit_memorisation(pools["synthetic"], pools["real"], pools.get("holdout"), seed=seed, mirrors=MIRRORS)
    return {
        "schema": SCHEMA,
        "kind": "latents",
        "sets": {label: _describe(folder, pools[label]) for label, folder in sources.items()},
        "latent_shape": list(shape or ()),
        "seed": seed,
        "versions": versions(STATISTICS),
        "memorisation": audit,
        "ids": list(pools["synthetic"].ids),
        "flagged": audit["flagged"],
    }


def _open(folder: Path, label: str, shape: tuple[int, ...] | None) -> tuple[Pool, tuple[int, ...]]:
    records = tuple(record for record in read_run(folder) if record.kind == "latent")
    if len(records) < LEAST_EXAMS:
        raise InputError(
            f"The {label} set {folder} has {len(records)} latents; at least {LEAST_EXAMS} are due.",
            "Give a folder that `ccella encode` or `ccella sample --latents` wrote.",
        )
    ids = [record.id for record in records]
    repeated = next((i for i, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"{folder} lists the id {repeated!r} twice.", "Give every exam an id of its own.")
    if shape is None:
        tensors = read_tensors(records[0].path)
        first = tensors.get("z", tensors.get("mean"))
        if first is None or first.ndim != 4:
            raise InputError(f"{records[0].path} holds no latent [channel, x, y, z].", "Encode the exams again.")
        shape = tuple(first.shape)
    patients = [str(record.data.get("patient_id", record.id)) for record in records]
    return Pool(Latents(records, shape), ids, patients, [_digest(record) for record in records]), shape


def _check_autoencoders(pools: Mapping[Path, Pool]) -> None:
    """Refuses latents of different autoencoders, as far as the records name theirs: no copy would be found."""
    first: tuple[str, dict[str, str]] | None = None
    for folder, pool in pools.items():
        assert isinstance(pool.images, Latents)
        for record in pool.images.records:
            files: Mapping[str, str] = dict(record.data.get("model") or {}).get("files") or {}
            own = {name: digest for name, digest in files.items() if name.startswith("autoencoder/")}
            place = f"{record.id!r} of {folder}"
            if first is None and own:
                first = place, own
            elif first is not None and own and own != first[1]:
                raise InputError(
                    f"The latents {place} and {first[0]} are of different autoencoders, and do not compare.",
                    "Encode or sample them with one model, or compare the decoded volumes: ccella evaluate images.",
                )


def _digest(record: Record) -> str:
    """SHA-256 of a latent's file; a missing one is named when it is read."""
    return sha256_file(record.path) if record.path.is_file() else ""


def _describe(folder: Path, pool: Pool) -> dict[str, Any]:
    files = "\n".join(f"{identifier} {digest}" for identifier, digest in zip(pool.ids, pool.digests, strict=True))
    return {
        "source": str(folder),
        "exams": len(pool.ids),
        "patients": len(set(pool.patients)),
        "files_sha256": hashlib.sha256(files.encode()).hexdigest(),
    }

"""The manifest of a run folder, or those that the shards of a run wrote in its place."""

import re
from pathlib import Path

from .errors import InputError

RUN_MANIFEST = "manifest.jsonl"
SHARD_MANIFEST = re.compile(r"manifest-([0-9]+)-of-([0-9]+)\.jsonl")


def run_manifests(folder: Path) -> list[Path]:
    """The manifest of a run folder, or those of its shards in order.

    Args:
        folder: Any folder.

    Returns:
        The paths; none where the folder holds no run.

    Raises:
        InputError: The manifest of a shard is missing, or there are shards of two runs.
    """
    whole = folder / RUN_MANIFEST
    if whole.is_file():
        return [whole]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shards = {(int(m[1]), int(m[2])) for m in map(SHARD_MANIFEST.fullmatch, names) if m}
    if not shards:
        return []
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise InputError(
            f"{folder} holds manifests of {counts[0]} and of {counts[1]} shards.", "Give each run its folder."
        )
    missing = [i for i in range(1, counts[0] + 1) if (i, counts[0]) not in shards]
    if missing:
        shard = f"{missing[0]}/{counts[0]}"
        raise InputError(f"{folder} lacks the manifest of shard {shard}.", f"Run it with --shard {shard}.")
    return [folder / f"manifest-{i}-of-{counts[0]}.jsonl" for i in range(1, counts[0] + 1)]

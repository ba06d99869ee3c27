"""What the keys of a record mean, and what kind of JSON value each has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT: tuple[type, ...] = (str,)
NUMBER: tuple[type, ...] = (int, float)
TABLE: tuple[type, ...] = (dict,)
LIST: tuple[type, ...] = (list,)
FLAG: tuple[type, ...] = (bool,)
# Names of the kinds in messages.
KIND_NAMES = {TEXT: "a string", NUMBER: "a number", TABLE: "an object", LIST: "an array", FLAG: "true or false"}


@dataclass(frozen=True)
class Key:
    """A key of a record.

    Attributes:
        meaning: What its value says.
        kind: Types of its value; null stands for what is not known.
        writers: Commands whose records have it.
    """

    meaning: str
    kind: tuple[type, ...]
    writers: tuple[str, ...]


_ALL = ("sample", "encode", "decode")
_VOLUME = ("sample", "decode")

RECORD_KEYS: Mapping[str, Key] = {
    "schema": Key("Version of this list.", TEXT, (*_ALL, "phantom")),
    "kind": Key("What the artefact is.", TEXT, (*_ALL, "phantom")),
    "id": Key("The exam or prompt that the artefact belongs to; names its folder.", TEXT, (*_ALL, "phantom")),
    "path": Key("The artefact.", TEXT, (*_ALL, "phantom")),
    "sha256": Key("Digest of the artefact.", TEXT, _ALL),
    "channel": Key("Sequence of a volume.", TEXT, ("sample", "decode", "phantom")),
    "channels": Key("All sequences of the exam, in order.", LIST, (*_ALL, "phantom")),
    "unit": Key("Unit of a volume's values.", TEXT, _VOLUME),
    "intensity": Key(
        "Values that 0 and 1 of the network stand for: `lower`, `upper`; of an encoded exam one pair per sequence.",
        TABLE + LIST, _ALL,
    ),
    "shape": Key("Size of the artefact's array along its axes.", LIST, _ALL),
    "spacing_mm": Key("Voxel spacing of the image along its axes, mm.", LIST, (*_ALL, "phantom")),
    "affine": Key("4x4 of a latent's image, voxel index to RAS mm.", LIST, ("sample --latents", "encode")),
    "synthetic": Key("Whether a model or simulation made it.", FLAG, (*_ALL, "phantom")),
    "prompt": Key("The report.", TEXT, (*_ALL, "phantom")),
    "prompt_truncated": Key("Whether the report was longer than the text encoder's window, and cut.", FLAG, _ALL),
    "text_path": Key("The embedded report, below the run folder.", TEXT, ("encode",)),
    "conditions": Key("What was asked for beside the report: `class`, `spacing_mm`.", TABLE, ("sample",)),
    "class": Key("1 with clinically significant cancer, 0 without: as asked, as labelled, or as predicted.", NUMBER,
                 (*_ALL, "phantom")),
    "class_probability": Key("Probability of class 1 that the class head gives the report.", NUMBER, ("sample",)),
    "seed": Key("Seed of the noise.", NUMBER, ("sample",)),
    "sampler": Key("`name`, `steps`, `guidance_scale`, `guidance_interval`, `eta` and the `timesteps` themselves.",
                   TABLE, ("sample",)),
    "patient_id": Key("Exams of one patient share it; of a sampled exam whose report it was, else the prompt's id.",
                      TEXT, ("sample", "encode", "phantom")),
    "prompt_id": Key("Id of the prompt that it was sampled from.", TEXT, ("sample",)),
    "source": Key("The exam on disk: `shape`, `spacing_mm`, `percentiles` of each sequence.", TABLE, ("encode",)),
    "meta": Key("Other columns of the manifest of prompts.", TABLE, ("sample",)),
    "model": Key("`id`, `revision` on the Hub, and `files` with their SHA-256.", TABLE, _ALL),
    "licence": Key("Licence of the weights: `id`, `name`, `url`, `restricted`.", TABLE, _ALL),
    "runtime": Key("What executed the networks.", TEXT, _ALL),
    "precision": Key("Number format of the networks.", TEXT, _ALL),
    "device": Key("Where the networks ran.", TEXT, _ALL),
    "batch_size": Key("Items denoised together at most.", NUMBER, ("sample",)),
    "versions": Key("Versions of ccella, Python and the libraries.", TABLE, _ALL),
    "parents": Key("What it was made from: `path` and `sha256` each.", LIST, _ALL),
    "masks": Key("Label volumes by name.", TABLE, ("phantom",)),
    "report_path": Key("The report as a file.", TEXT, ("phantom",)),
    "findings_path": Key("The findings that report and images agree on.", TEXT, ("phantom",)),
}  # fmt: skip


def find_wrong_key(data: Mapping[str, Any]) -> str | None:
    """A sentence's end on the first known key whose value is of another kind, or None."""
    for name, value in data.items():
        key = RECORD_KEYS.get(name)
        if key is None or value is None:
            continue
        # A truth value is no number, though Python counts it as one.
        if not isinstance(value, key.kind) or (isinstance(value, bool) and key.kind != FLAG):
            expected = KIND_NAMES.get(key.kind, "an object or an array")
            shown = repr(value)
            return f"key {name!r} is {shown if len(shown) <= 80 else shown[:77] + '...'}; expected {expected}"
    return None

"""A study as its file describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from ..zoo.errors import CardError
from ..zoo.tables import Table, read_user_toml

SCHEMA = 1
PRETRAINING = ("real", "synthetic", "none")
VALIDATIONS = ("institution1", "institution2")
LABELS = ("model", "exam")
STAGES = ("pretrain", "scratch", "finetune")
# The paper's split of each institution: train, validation, test.
SPLIT = (0.80, 0.05, 0.15)
SUMS_TO = 1e-6
INSTITUTIONS = (1, 2)


@dataclass(frozen=True)
class Source:
    """Where exams come from: a folder or manifest, phantoms, or what a model makes of institution 1's reports.

    Attributes:
        exams: Folder or manifest; None for the other kinds.
        phantoms: Arguments of `ccella phantom` (institution, count, seed, start, prevalence), or None.
        sample: Arguments of `ccella sample` (model, preset, steps, labels), or None.
    """

    exams: Path | None = None
    phantoms: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Study:
    """What is trained on what, and what is compared.

    Attributes:
        path: The study file.
        title: For people.
        classifier: Name of the classifier's model.
        seed: Of splits, partitions and trainings; trial k trains with seed + k.
        trials: Trainings per point.
        fractions: Shares of institution 2's training patients, descending.
        pretraining: Of PRETRAINING.
        validation: Whose validation exams choose the weights; those of pretrainings are always institution 1's.
        split: Shares of patients for training, validation and test.
        sequences: Channels by the name of the sequence set.
        institutions: Sources of institution 1 and 2.
        synthetic: Source of synthetic exams by sequence set.
        options: Training options by STAGES, over those of the classifier's card.
        bootstrap: Resamples of the test patients.
        document: The parsed file.
    """

    path: Path
    title: str
    classifier: str
    seed: int
    trials: int
    fractions: tuple[float, ...]
    pretraining: tuple[str, ...]
    validation: str
    split: tuple[float, ...]
    sequences: Mapping[str, tuple[str, ...]]
    institutions: tuple[Source, Source]
    synthetic: Mapping[str, Source]
    options: Mapping[str, Mapping[str, Any]]
    bootstrap: int
    document: Mapping[str, Any]


def read_study(path: Path) -> Study:
    """Reads and checks a study file.

    Raises:
        InputError: The file is missing, is not TOML, lacks a key, or has a key or value that means nothing.
    """
    document = read_user_toml(path, "Study file", "Check the path.")
    try:
        return _parse(Table(document, path))
    except CardError as error:
        raise InputError(str(error), error.remedy.replace("the card", "the study file")) from error


def _parse(top: Table) -> Study:
    top.allow(
        "schema", "title", "classifier", "seed", "trials", "fractions", "pretraining", "validation", "split",
        "sequences", "institution1", "institution2", "synthetic", "bootstrap", *STAGES,
    )  # fmt: skip
    if top.integer("schema") != SCHEMA:
        raise top.fail("schema", f"{SCHEMA}", "This version of ccella reads schema 1; update ccella.")
    fractions = tuple(sorted(set(top.numbers("fractions", (1.0, 0.5, 0.25, 0.125, 0.0625))), reverse=True))
    if not fractions or not 0 < fractions[-1] <= fractions[0] <= 1:
        raise top.fail("fractions", "shares above 0 and up to 1")
    pretraining = top.texts("pretraining", PRETRAINING)
    if not pretraining or not set(pretraining) <= set(PRETRAINING):
        raise top.fail("pretraining", f"some of {', '.join(PRETRAINING)}")
    split = top.numbers("split", SPLIT)
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > SUMS_TO:
        raise top.fail("split", "three positive shares that add up to 1")
    sequences = {name: top.table("sequences").texts(name) for name in top.table("sequences").data}
    if not sequences or not all(sequences.values()):
        raise top.fail("sequences", "a list of channels by name")
    synthetic = top.table("synthetic", {})
    synthetic.allow(*sequences)
    if "synthetic" in pretraining:
        for name in sequences:
            synthetic.table(name)
    return Study(
        path=top.file,
        title=top.text("title"),
        classifier=_model(top.text("classifier"), top.file),
        seed=top.integer("seed", 0),
        trials=top.integer("trials", 3, minimum=1),
        fractions=fractions,
        pretraining=tuple(name for name in PRETRAINING if name in pretraining),
        validation=top.choice("validation", VALIDATIONS, "institution1"),
        split=split,
        sequences=sequences,
        institutions=(_source(top.table("institution1")), _source(top.table("institution2"))),
        synthetic={name: _source(synthetic.table(name), samples=True) for name in synthetic.data},
        options={name: dict(top.table(name, {}).data) for name in STAGES},
        bootstrap=top.integer("bootstrap", 2000, minimum=100),
        document=top.data,
    )


def _source(table: Table, *, samples: bool = False) -> Source:
    kinds = ("exams", "sample") if samples else ("exams", "phantoms")
    table.allow(*kinds)
    given = [name for name in kinds if name in table.data]
    if len(given) != 1:
        raise CardError(f"{table.file}: {table.prefix} has {len(given)} sources.", f"Give one of {', '.join(kinds)}.")
    if given[0] == "exams":
        return Source(exams=table.file.parent / table.text("exams"))
    inner = table.table(given[0])
    if given[0] == "phantoms":
        inner.allow("institution", "count", "seed", "start", "prevalence")
        inner.integer("count", minimum=1)
        inner.integer("seed", 0)
        inner.integer("start", 0)
        if inner.integer("institution", INSTITUTIONS[0]) not in INSTITUTIONS:
            raise inner.fail("institution", " or ".join(map(str, INSTITUTIONS)))
        if not 0 <= inner.number("prevalence", 0.0) <= 1:
            raise inner.fail("prevalence", "a share from 0 to 1")
        return Source(phantoms=inner.data)
    inner.allow("model", "preset", "steps", "labels")
    inner.choice("labels", LABELS, "model")
    inner.text("preset", "")
    inner.integer("steps", 1, minimum=1)
    return Source(sample={**inner.data, "model": _model(inner.text("model"), table.file)})


def _model(name: str, file: Path) -> str:
    """A model's name; a folder is relative to the study file."""
    # Absolute, or a folder beside the file could be taken for a model of the zoo.
    return str((file.parent / name).resolve()) if name.startswith((".", "/")) else name

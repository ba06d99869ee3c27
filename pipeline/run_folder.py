"""The folder that a stage writes: artefacts, sidecars, manifest, and what makes a run resumable.

    out/<id>/<artefact>, out/<id>/<artefact>.json   written in this order, each under a temporary name first
    out/manifest.jsonl                              one line per artefact (manifest-i-of-n.jsonl with shards)
    out/run.json                                    the command and its settings; the only file that holds wall-clock times
    out/.ccella/                                    lock files

An artefact counts as done when its sidecar parses and the artefact has the digest that the sidecar names. The manifest is an index:
it is appended to while a run goes on and rebuilt from the sidecars, in input order, when a resumed run ends.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ..imaging.atomic import write_json, write_text
from ..imaging.errors import InputError
from ..zoo.record import Record, parse_record
from .errors import RunFolderError
from .locks import FileLock, LockUnsupportedError
from .seeds import Shard

RUN_SCHEMA = "ccella.run/1"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part")
SHARD_MANIFEST = re.compile(r"manifest-([0-9]+)-of-([0-9]+)\.jsonl")
SETUP_WAIT_S = 30.0


def sidecar_path(artefact: Path) -> Path:
    """Where the sidecar of an artefact lies: the same name with `.json`."""
    name = artefact.name.removesuffix(".gz")
    return artefact.with_name(f"{name.rpartition('.')[0]}.json")


def read_run(folder: Path) -> Iterator[Record]:
    """The records of a run folder in input order, from its manifest or from the manifests of its shards.

    Raises:
        InputError: No manifest, a line that is no record, or the manifest of a shard is missing.
    """
    remedy = "Finish the run with --resume, then read it."
    for path in _manifests(folder):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield parse_record(line, base=folder, source=f"{path}, line {number}")
                except ValueError as error:
                    raise InputError(str(error), remedy) from error


def _manifests(folder: Path) -> list[Path]:
    """The manifest of a run folder, or those of its shards in order."""
    whole = folder / "manifest.jsonl"
    if whole.is_file():
        return [whole]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shards = {(int(m[1]), int(m[2])) for m in map(SHARD_MANIFEST.fullmatch, names) if m}
    if not shards:
        raise InputError(f"{folder} has no manifest.jsonl.", "Give the output folder of an earlier command.")
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise InputError(f"{folder} holds manifests of {counts[0]} and of {counts[1]} shards.", "Give each run its folder.")
    missing = [i for i in range(1, counts[0] + 1) if (i, counts[0]) not in shards]
    if missing:
        raise InputError(
            f"{folder} lacks the manifest of shard {missing[0]}/{counts[0]}.", f"Run it with --shard {missing[0]}/{counts[0]}."
        )
    return [folder / f"manifest-{i}-of-{counts[0]}.jsonl" for i in range(1, counts[0] + 1)]


def _digest(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


class RunFolder:
    """Claims an output folder and writes a run into it. Use it in a `with` statement.

    Args:
        out: The folder; made where missing. Foreign files in it are left alone.
        command: The stage that runs, for run.json.
        settings: What the artefacts depend on, JSON-able. A resumed run must have the same.
        resume: Go on with a run that is there.
        overwrite: Remove the run that is there first: its artefacts, sidecars and manifest, nothing else.
        shard: This process's share of the run. Shards of one run may write into one folder at the same time.
        warn: Called with a sentence the user should see.

    Raises:
        RunFolderError: The folder holds a run and neither `resume` nor `overwrite` is given; another process writes to it;
            the settings differ; it cannot be written.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        command: str,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        shard: Shard | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(out)
        self.shard = shard
        self._command = command
        self._settings = json.loads(json.dumps(dict(settings or {})))
        self._warn = warn or (lambda sentence: None)
        self._resumed = False
        self._order: list[str] = []
        self._listed: set[str] = set()
        self._locks: list[FileLock] = []
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other.", "Give one of them.")
        try:
            self._open(resume, overwrite)
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise self._unusable(error) from error
            raise

    # Opening

    @property
    def manifest(self) -> Path:
        """The manifest that this process writes."""
        return self.named("manifest.jsonl")

    def named(self, name: str) -> Path:
        """A file of the run as a whole; with shards each has its own, such as `preview-2-of-3.png`."""
        if self.shard is None:
            return self.path / name
        stem, dot, suffix = name.partition(".")
        return self.path / f"{stem}{self.shard.suffix}{dot}{suffix}"

    def _open(self, resume: bool, overwrite: bool) -> None:
        (self.path / ".ccella").mkdir(parents=True, exist_ok=True)
        setup = self._lock("setup.lock")
        if not self._acquire(setup, wait_s=SETUP_WAIT_S):
            raise self._taken()
        alone = self._take_run()
        if not resume and not overwrite and self._holds_run():
            raise RunFolderError(
                f"{self.path} already holds a run.", "Give --resume to go on with it, --overwrite to replace it, or another -o."
            )
        if overwrite:
            self._remove_run(alone)
        self._check_settings(resume)
        if alone:
            self._clean([self.path, *(path for path in self.path.iterdir() if path.is_dir() and path.name != ".ccella")])
        if alone and self.shard is None:
            for path in self.path.iterdir():
                if SHARD_MANIFEST.fullmatch(path.name):
                    path.unlink()
        self._resumed = resume and self.manifest.exists()
        self._repair_manifest()
        self._write_run({"started": _now()}, replace_times=False)
        setup.release()

    def _lock(self, name: str) -> FileLock:
        lock = FileLock(self.path / ".ccella" / name)
        self._locks.append(lock)
        return lock

    def _acquire(self, lock: FileLock, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        try:
            return lock.acquire(shared=shared, wait_s=wait_s)
        except LockUnsupportedError:
            self._warn(f"{self.path} lies on a file system without locks: take care that no other run writes to it.")
            return True

    def _take_run(self) -> bool:
        """Locks the run. Returns whether no other process (no other shard) works on it."""
        lock = self._lock("run.lock")
        alone = self._acquire(lock)
        if self.shard is None:
            if not alone:
                raise self._taken()
            return True
        # All shards hold this lock together, so that a run without shards is kept out.
        if not self._acquire(lock, shared=True) or not self._acquire(self._lock(f"shard{self.shard.suffix}.lock")):
            raise self._taken()
        return alone

    def _taken(self) -> RunFolderError:
        return RunFolderError(
            f"Another process is writing to {self.path}.", "Wait for it, give another -o, or share the work with --shard i/n."
        )

    def _unusable(self, error: OSError) -> RunFolderError:
        reason = error.strerror or str(error)
        return RunFolderError(f"The output folder {self.path} cannot be written: {reason}.", "Give another folder with -o.")

    def _holds_run(self) -> bool:
        if self.manifest.exists() and self.manifest.stat().st_size > 0:
            return True
        # Killed before its first line: the sidecar was already there.
        return self.shard is None and next(self._sidecars(), None) is not None

    def _sidecars(self) -> Iterator[Record]:
        for path in sorted(self.path.glob("*/*.json")):
            record = self._read_sidecar(path)
            if record is not None:
                yield record

    def _read_sidecar(self, path: Path) -> Record | None:
        """The record of a sidecar, or None where it is missing or says nothing of a file of this folder."""
        try:
            record = parse_record(path.read_text(encoding="utf-8"), base=self.path, source=str(path))
        except (FileNotFoundError, ValueError):
            return None
        return record if sidecar_path(record.path) == path else None

    def _read_run(self) -> dict[str, Any]:
        try:
            run = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunFolderError(f"{self.path / 'run.json'} is damaged: {error}.", "Start anew with --overwrite.") from error
        return run if isinstance(run, dict) else {}

    def _remove_run(self, alone: bool) -> None:
        """Removes the artefacts, sidecars and manifests of the run that is there; with shards those of this shard only."""
        if self.shard is None:
            doomed = list(self._sidecars())
            extra = [path for path in self.path.glob("manifest*.jsonl")]
            extra += [path for path in self.path.glob("preview*.png")] + [self.path / "run.json"]
        else:
            doomed = [r for r in map(self._parse_line, self._manifest_lines()) if r is not None]
            # Another shard may have begun the new run: its run.json stays when it says the same.
            stale = alone and self._differing_setting() is not None
            extra = [self.manifest, self.named("preview.png"), *([self.path / "run.json"] if stale else [])]
        for record in doomed:
            if record.path.resolve().is_relative_to(self.path.resolve()):
                record.path.unlink(missing_ok=True)
                sidecar_path(record.path).unlink(missing_ok=True)
                if record.path.parent != self.path and not any(record.path.parent.iterdir()):
                    record.path.parent.rmdir()
        for path in extra:
            path.unlink(missing_ok=True)

    def _differing_setting(self) -> tuple[str, Any, Any] | None:
        """Name, old and new value of a setting in which run.json and this run differ."""
        run = self._read_run()
        if not run:
            return None
        old, new = dict(run.get("settings", {})), dict(self._settings)
        old["command"], new["command"] = run.get("command"), self._command
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return name, old.get(name), new.get(name)
        return None

    def _check_settings(self, resume: bool) -> None:
        run = self._read_run()
        if not resume and self.shard is None:
            (self.path / "run.json").unlink(missing_ok=True)
            return
        different = self._differing_setting()
        if different is not None:
            name, old, new = different
            raise RunFolderError(
                f"The run in {self.path} has {name} = {json.dumps(old)}, but this one has {json.dumps(new)}.",
                "Repeat the command as it was first given, or start anew with --overwrite.",
            )
        count = self.shard.count if self.shard is not None else 1
        if self.shard is not None and run and run.get("shards") != count:
            raise RunFolderError(
                f"The run in {self.path} has {run.get('shards')} shards, but this one has {count}.",
                f"Give --shard i/{run.get('shards')}, or no --shard once no other process works on it.",
            )

    def _clean(self, folders: Sequence[Path]) -> None:
        """Removes temporary files that dead processes left."""
        for folder in folders:
            for path in folder.iterdir():
                if TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

"""The folder that a stage writes: artefacts, sidecars, manifest, and what makes a run resumable.

    out/<id>/<artefact>, out/<id>/<artefact>.json   written in this order, each under a temporary name first
    out/manifest.jsonl                              one line per artefact (manifest-i-of-n.jsonl with shards)
    out/run.json                                    the command and its settings; the only file with wall-clock times
    out/.ccella/                                    lock files

An artefact counts as done when its sidecar parses and the artefact has the digest that the sidecar names. The manifest
is an index: it is appended to while a run goes on and put in input order, from the sidecars, when a resumed run ends.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..imaging.atomic import write_json
from ..imaging.digests import digest_file
from ..imaging.run_manifests import SHARD_MANIFEST
from ..zoo.record import Record
from .errors import RunFolderError
from .manifests import Manifest, find_sidecars, read_sidecar, sidecar_path
from .run_lock import RunLock
from .run_settings import RunSettings
from .seeds import Shard

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part")
SHARD_PREVIEW = re.compile(r"preview-[0-9]+-of-[0-9]+\.png")
SHARD_FILES = (SHARD_MANIFEST, SHARD_PREVIEW)
SHARED_FILE = re.compile(r"[0-9a-f]{16}\.safetensors")


class RunFolder:
    """Claims an output folder and writes a run into it. Use it in a `with` statement.

    Args:
        out: The folder; made where missing. Foreign files in it are left alone.
        command: The stage that runs, for run.json.
        settings: What the artefacts depend on, JSON-able. A resumed run must have the same.
        resume: Go on with a run that is there.
        overwrite: Remove the run that is there first: its artefacts, sidecars and manifest, nothing else.
        shard: This process's share of the run. Shards of one run may write into one folder at the same time.
        warn: Called with a sentence that the user should see.

    Attributes:
        path: The folder.

    Raises:
        RunFolderError: The folder holds a run and neither `resume` nor `overwrite` is given, another process writes to
            it, the settings differ, or it cannot be written.
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
        self._settings = RunSettings(self.path / "run.json", command, settings or {}, shard)
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other.", "Give one of them.")
        with self._writing(self.path):
            self._lock = RunLock(self.path, shard, warn or (lambda sentence: None))
            try:
                self._open(resume, overwrite)
                self._manifest = Manifest(self.named("manifest.jsonl"))
            except BaseException:
                self._lock.release()
                raise
            self._lock.end_setup()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After an error too: what is done is listed in order.
            with self._writing(self._manifest.path):
                self._manifest.finish()
        finally:
            self._lock.release()

    def named(self, name: str) -> Path:
        """A file of the run as a whole; with shards each has its own, such as `preview-2-of-3.png`."""
        if self.shard is None:
            return self.path / name
        stem, dot, suffix = name.partition(".")
        return self.path / f"{stem}{self.shard.suffix}{dot}{suffix}"

    def _open(self, resume: bool, overwrite: bool) -> None:
        if overwrite:
            self._remove_run()
        elif not resume and self._holds_run():
            raise RunFolderError(
                f"{self.path} already holds a run.",
                "Give --resume to go on with it, --overwrite to replace it, or another -o.",
            )
        if resume or self.shard is not None:
            self._settings.check()
        else:
            # What a run that wrote nothing left behind binds nobody.
            self._settings.path.unlink(missing_ok=True)
        if self._lock.alone:
            self._clean(self.path)
            for folder in self.path.iterdir():
                if folder.is_dir() and not folder.name.startswith("."):
                    self._clean(folder)
                elif self.shard is None and any(kind.fullmatch(folder.name) for kind in SHARD_FILES):
                    # A run without shards takes over what shards began: its own manifest lists it from now on.
                    folder.unlink()
        self._settings.write()

    def _holds_run(self) -> bool:
        manifest = self.named("manifest.jsonl")
        if manifest.exists() and manifest.stat().st_size > 0:
            return True
        # A run may have been killed between its first sidecar and its first line.
        return self.shard is None and next(find_sidecars(self.path), None) is not None

    def _remove_run(self) -> None:
        """Removes the run that is there; of a run of the same settings and shards this shard's part only.

        Other shards may have begun to overwrite that one already.
        """
        if self.shard is None or (self._lock.alone and self._settings.is_other_run()):
            doomed = list(find_sidecars(self.path))
            files = [path for pattern in ("manifest*.jsonl", "preview*.png") for path in self.path.glob(pattern)]
            files += [path for path in self.path.glob("text/*") if SHARED_FILE.fullmatch(path.name)]
            files.append(self._settings.path)
        else:
            doomed = list(Manifest(self.named("manifest.jsonl")).records())
            files = [self.named("manifest.jsonl"), self.named("preview.png")]
        for record in doomed:
            # A manifest is a file like any other: what it names outside the folder is not the run's to remove.
            if record.path.resolve().is_relative_to(self.path.resolve()):
                record.path.unlink(missing_ok=True)
                sidecar_path(record.path).unlink(missing_ok=True)
                folder = record.path.parent
                if folder != self.path and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        for path in files:
            path.unlink(missing_ok=True)

    def _clean(self, folder: Path) -> None:
        """Removes the temporary files that dead processes left in a folder."""
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Turns an operating system's refusal to write `path` into a sentence."""
        try:
            yield
        except (NotADirectoryError, FileExistsError) as error:
            raise RunFolderError(
                f"{path} cannot be written: a file is in its way.", "Remove that file, or give another folder with -o."
            ) from error
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written: {error.strerror or error}.",
                "Make room or set permissions, then go on with --resume; or give another folder with -o.",
            ) from error

    def find_done(
        self, item_id: str, names: Sequence[str], expected: Mapping[str, Any] | None = None
    ) -> list[Record] | None:
        """Looks whether all artefacts of an item are there and whole. `keep` then lists them.

        Args:
            item_id: The item.
            names: File names of its artefacts inside `<out>/<item_id>/`, in order.
            expected: What the sidecars must say of the item, for example its prompt and seed.

        Returns:
            The item's records, or None when it has to be made (again).

        Raises:
            RunFolderError: The item is done, but from something else than `expected`.
        """
        folder = self.path / item_id
        records = []
        for name in names:
            record = read_sidecar(sidecar_path(folder / name), self.path)
            whole = record is not None and record.path == folder / name and record.path.is_file()
            if record is None or not whole or digest_file(record.path) != record.data.get("sha256"):
                if folder.is_dir():
                    self._clean(folder)
                return None
            records.append(record)
        for key, value in (expected or {}).items():
            for record in records:
                old = record.data.get(key)
                if old != value:
                    raise RunFolderError(
                        f"{record.path} was made with {key} {_short(old)}, but now it is {_short(value)}.",
                        "Give the input of the first run again, or start anew with --overwrite.",
                    )
        return records

    def keep(self, records: Sequence[Record]) -> None:
        """Lists the records of an item that was found done or stored; items are listed in input order."""
        with self._writing(self._manifest.path):
            for record in records:
                self._manifest.add(record)

    def write_artefact(self, record: Record, write: Callable[[Path], None]) -> Record:
        """Writes an artefact, then its sidecar, then its line in the manifest.

        Args:
            record: What it is; `path` as `artefact_path` gives it. `sha256` is added to its data.
            write: Writes the artefact to the path it is given, atomically (imaging.atomic).

        Returns:
            The record with the artefact's digest.

        Raises:
            RunFolderError: The folder is full or not writable.
        """
        record = self.store_artefact(record, write)
        self.keep([record])
        return record

    def store_artefact(self, record: Record, write: Callable[[Path], None]) -> Record:
        """As `write_artefact`, but `keep` has to list it; several threads may store different items at a time."""
        with self._writing(record.path):
            write(record.path)
            record = replace(record, data={**record.data, "sha256": digest_file(record.path)})
            write_json(sidecar_path(record.path), record.to_json(relative_to=self.path))
        return record

    def records(self) -> Iterator[Record]:
        """What this process's manifest lists so far."""
        return self._manifest.records()

    def write_file(self, path: Path, write: Callable[[Path], None]) -> None:
        """Writes a file of the run that is no artefact, such as a preview; RunFolderError where it cannot."""
        with self._writing(path):
            write(path)

    def artefact_path(self, item_id: str, name: str) -> Path:
        """Where the artefact `name` of an item lies."""
        return self.path / item_id / name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

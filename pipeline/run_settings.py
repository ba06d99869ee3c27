"""run.json: the command of a run and the settings that its artefacts depend on."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..imaging.atomic import write_json
from .errors import RunFolderError
from .provenance import versions
from .seeds import Shard

if TYPE_CHECKING:
    from ..export.runtimes import Runtime

RUN_SCHEMA = "ccella.run/1"


def runtime_setting(runtime: "Runtime") -> dict[str, Any]:
    """The settings that name the runtime, its provider and its exported graphs.

    None for PyTorch, so that its earlier runs can be resumed. Versions may change within a run, as PyTorch's may.
    """
    if runtime.name == "torch":
        return {}
    provider = str(runtime.details["provider"]).split()[0]
    graphs = dict(runtime.details["graphs"])
    return {"runtime": runtime.name, "runtime_provider": provider, "runtime_graphs": graphs}


class RunSettings:
    """What a run is, for run.json.

    Args:
        path: The run.json.
        command: The stage.
        settings: JSON-able settings; whatever changes the artefacts belongs here.
        shard: The process's share of the run.
    """

    def __init__(self, path: Path, command: str, settings: Mapping[str, Any], shard: Shard | None) -> None:
        self.path = path
        # Through JSON, so that a tuple equals the list that comes back from the file.
        self.settings = json.loads(json.dumps({"command": command, **settings}))
        self.shards = shard.count if shard is not None else 1

    def read(self) -> dict[str, Any] | None:
        """The run.json that is there, or None."""
        try:
            run = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunFolderError(f"{self.path} is damaged: {error}.", "Start anew with --overwrite.") from error
        if not isinstance(run, dict) or not isinstance(run.get("settings"), dict):
            raise RunFolderError(f"{self.path} is no run.json of ccella.", "Give another folder with -o.")
        return run

    def difference(self) -> tuple[str, Any, Any] | None:
        """Name, stored value and own value of the first setting in which the stored run and this one differ.

        A value within a table has the names on its path, with dots between them.
        """
        run = self.read()
        return None if run is None else _first_difference(run["settings"], self.settings)

    def is_other_run(self) -> bool:
        """Whether a run is stored that differs from this one in a setting or in the number of shards."""
        run = self.read()
        return run is not None and (self.difference() is not None or run.get("shards") != self.shards)

    def check(self) -> None:
        """RunFolderError, naming the setting, where the stored run is another run."""
        different = self.difference()
        if different is not None:
            name, old, new = different
            raise RunFolderError(
                f"The run in {self.path.parent} has {name} = {json.dumps(old)}, but this one has {json.dumps(new)}.",
                "Repeat the command as it was first given, or start anew with --overwrite.",
            )
        run = self.read()
        if run is not None and self.shards not in (1, run.get("shards")):
            raise RunFolderError(
                f"The run in {self.path.parent} has {run.get('shards')} shards, but this one has {self.shards}.",
                "Repeat it with the first number of shards, or without --shard.",
            )

    def write(self) -> None:
        """Writes run.json; a resumed run keeps its first start."""
        run = self.read() or {}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            self.path,
            {
                "schema": RUN_SCHEMA,
                "settings": self.settings,
                "shards": self.shards,
                "started": run.get("started", now),
                "versions": versions(),
            },
        )


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        inner = _first_difference(before, after) if isinstance(before, dict) and isinstance(after, dict) else None
        return (name, before, after) if inner is None else (f"{name}.{inner[0]}", *inner[1:])
    return None

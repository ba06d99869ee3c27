"""`ccella zoo pull`, `verify`, `bundle` and `unbundle`: weights onto this machine, and what they are."""

import sys
from pathlib import Path

import click

from ..imaging.errors import InputError
from ..zoo.bundle import unpack_bundle, write_bundle
from ..zoo.cache import snapshot_path
from ..zoo.card import Card, Licence, WeightsCard
from ..zoo.download import PulledFile, accept_licence, pull
from ..zoo.errors import DigestMismatchError, WeightsMissingError
from ..zoo.importing import import_public
from ..zoo.inventory import DIFFERS, MISSING, FileState, is_present, verify
from ..zoo.loading import model_name
from ..zoo.lock import hold_pins, hub_files
from ..zoo.registry import find_weights, list_cards
from .notes import say
from .options import stream_options
from .output import Output
from .progress import Progress


@click.command("pull")
@click.argument("name", metavar="MODEL")
@click.option("--accept-license", "accepted", metavar="ID", help="Accept the licence ID, which limits the model's use.")
@click.option(
    "-o", "--output", "out", metavar="DIR", type=click.Path(path_type=Path),
    help="Also make the model folder DIR, public checkpoints converted as by `zoo import`.",
)  # fmt: skip
@stream_options
def pull_model(name: str, accepted: str | None, out: Path | None, as_json: bool) -> None:
    """Fetch the public weights of MODEL into the Hugging Face cache and check every byte of them.

    MODEL may be a feature extractor too, such as medicalnet-resnet50. What lies there already is checked too. HF_HOME,
    HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
    """
    card = find_weights(name)
    if out is not None and not any(part.checkpoint and not part.files for part in card.parts.values()):
        raise InputError(f"No part of {name} is public as a checkpoint, so no folder is needed.", "Pull it without -o.")
    _announce(card)
    accept_licence(card, accepted, _ask if sys.stdin.isatty() else None)
    with (
        Output("part", "file", "MB", "sha256", "came from", as_json=as_json) as output,
        Progress("pulling", "MB") as progress,
    ):
        for pulled in pull(card, on_bytes=lambda done, total: progress.update(done / 1e6, total / 1e6)):
            if as_json:
                output.add_object(_pulled_object(card, pulled))
            else:
                size = f"{pulled.path.stat().st_size / 1e6:.1f}"
                source = "the Hub" if pulled.fetched else "the cache"
                output.add_row(pulled.part, pulled.file.path, size, pulled.file.sha256, source)
    if out is not None and isinstance(card, Card):
        for imported in import_public(card, out):
            say(f"Imported into {out}: {imported.part}.")
            card = imported.card
    _announce_missing(card, name)


@click.command("verify")
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@stream_options
def verify_models(names: tuple[str, ...], as_json: bool) -> None:
    """Hash the weights of each MODEL on this machine and compare them with what is pinned; offline.

    Without MODEL: every model of the zoo that is here.
    """
    cards: list[WeightsCard] = [find_weights(name) for name in names]
    cards = cards or [card for card in list_cards() if is_present(card)]
    wrong: list[FileState] = []
    with Output("model", "part", "file", "state", "sha256", as_json=as_json) as output:
        for card in cards:
            for state in verify(card):
                if state.state in (MISSING, DIFFERS):
                    wrong.append(state)
                if as_json:
                    output.add_object(_state_object(card, state))
                else:
                    output.add_row(card.id, state.part, state.file.path, state.state, state.sha256)
    differing = [str(state.path) for state in wrong if state.state == DIFFERS]
    if differing:
        raise DigestMismatchError(
            f"{len(differing)} files are not what was pinned: {', '.join(differing)}.",
            "Pull the model again, or copy the whole model folder again.",
        )
    if wrong:
        raise WeightsMissingError(
            f"{len(wrong)} files are missing: {', '.join(str(state.path) for state in wrong)}.",
            f"With network access run: ccella zoo pull {' '.join(names)}",
        )


@click.command("bundle")
@click.argument("name", metavar="MODEL")
@click.option(
    "-o", "--output", "out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The file to write."
)
@stream_options
def bundle_model(name: str, out: Path, as_json: bool) -> None:
    """Write all weights of MODEL that are on this machine into one FILE, for a host without a network."""
    card = find_weights(name)
    bundle, sha256 = write_bundle(card, out)
    size = out.stat().st_size
    say(f"Licence: {card.licence.name} ({card.licence.id}) {card.licence.url}".rstrip())
    say(f"On the other host: ccella zoo unbundle {out.name} --sha256 {sha256}{' -o DIR' if bundle.has_folder else ''}")
    with Output("model", "files", "MB", "sha256", "bundle", as_json=as_json) as output:
        if as_json:
            files = [file.path for file in bundle.files]
            output.add_object({"model": card.id, "files": files, "size": size, "sha256": sha256, "path": str(out)})
        else:
            output.add_row(card.id, len(bundle.files), f"{size / 1e6:.1f}", sha256, out)


@click.command("unbundle")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--sha256", metavar="HEX", help="What the whole FILE must hash to, as `zoo bundle` printed it.")
@click.option(
    "-o", "--output", "out", metavar="DIR", type=click.Path(path_type=Path),
    help="Model folder to make; needed for a model that is not one of the zoo's own.",
)  # fmt: skip
@stream_options
def unbundle_model(source: Path, sha256: str | None, out: Path | None, as_json: bool) -> None:
    """Unpack a FILE of `zoo bundle`: Hub files into the cache, a model folder into DIR; every content is hashed."""
    with Output("file", "sha256", "path", as_json=as_json) as output:
        for file, path in unpack_bundle(source, out, sha256=sha256):
            if as_json:
                output.add_object({"file": file.path, "repo": file.repo, "sha256": file.sha256, "path": str(path)})
            else:
                output.add_row(file.path, file.sha256, path)


def _announce(card: WeightsCard) -> None:
    """Says what will be fetched, from where, and under which terms."""
    files = hub_files(card)
    sources = sorted({f"{file.repo}@{file.revision}" for _, file in files})
    if files:
        say(f"{model_name(card)}: {len(files)} public files of {', '.join(sources)}.")
    else:
        say(f"{model_name(card)}: no part of it lies on the Hub; nothing to pull.")
    say(f"Licence: {card.licence.name} ({card.licence.id}) {card.licence.url}".rstrip())


def _announce_missing(card: WeightsCard, name: str) -> None:
    """Says which parts are still to be trained or imported."""
    for part in card.parts.values():
        if part.checkpoint is not None and not part.files:
            path = snapshot_path(hold_pins(part.checkpoint))
            say(f"Public as a checkpoint, to be imported: {part.name}: ccella zoo import {path} --as {name} -o DIR")
        elif not part.files and isinstance(card, Card):
            say(f"Not public, to be trained or imported: {part.name}: {part.note or 'no weights.'}")


def _ask(licence: Licence) -> bool:
    """Asks on the terminal, once."""
    return click.confirm(f"{licence.name} limits the use of these weights ({licence.url}). Accept it?", err=True)


def _pulled_object(card: WeightsCard, pulled: PulledFile) -> dict[str, object]:
    file = pulled.file
    return {
        "model": card.id, "part": pulled.part, "repo": file.repo, "revision": file.revision, "file": file.path,
        "sha256": file.sha256, "size": pulled.path.stat().st_size, "path": pulled.path.as_posix(),
        "fetched": pulled.fetched,
    }  # fmt: skip


def _state_object(card: WeightsCard, state: FileState) -> dict[str, object]:
    return {
        "model": card.id, "part": state.part, "repo": state.file.repo, "revision": state.file.revision,
        "file": state.file.path, "state": state.state, "sha256": state.sha256, "pinned": state.file.sha256,
        "path": state.path.as_posix(),
    }  # fmt: skip

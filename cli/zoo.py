"""`ccella zoo`: the models at hand."""

import json
from pathlib import Path

import click

from ..zoo.card import Card
from ..zoo.generation import Generation, Preset, SamplerDefaults, guidance_words
from ..zoo.importing import IMPORTED_PARTS, import_checkpoint, parse_factors
from ..zoo.inventory import describe_pins
from ..zoo.modelcard import flatten_table
from ..zoo.publishing import prepare_upload, push_model
from ..zoo.registry import availability, find_card, list_cards
from .notes import say
from .options import output_option, stream_options
from .output import Output, write_line
from .weights import bundle_model, pull_model, unbundle_model, verify_models


@click.group()
def command() -> None:
    """List, pull, check, import and publish models."""


for _member in (pull_model, verify_models, bundle_model, unbundle_model):
    command.add_command(_member)


@command.command("list")
@stream_options
def list_models(as_json: bool) -> None:
    """List the models that ship with ccella.

    "ready" samples at once; "pull" needs weights from the Hub; "train or import" names the parts for which there are
    no public weights. "digests" says who states what the files must be: the card, or the lock file of the first pull.
    """
    with Output("model", "grid", "needs", "digests", "licence", "title", as_json=as_json) as output:
        for card in list_cards():
            if as_json:
                output.add_object(_summarise(card))
            else:
                grid = "x".join(str(size) for size in card.image.shape)
                terms = f"{card.licence.id} (limits use)" if card.licence.restricted else card.licence.id
                output.add_row(card.id, grid, availability(card), describe_pins(card), terms, card.title)


@command.command("show")
@click.argument("name")
@stream_options
def show_model(name: str, as_json: bool) -> None:
    """Show the card of model NAME: a model of the zoo, or a model folder."""
    card = find_card(name)
    if as_json:
        write_line(json.dumps(_summarise(card) | {"card": card.document}, ensure_ascii=False, default=str))
        return
    for key, value in _describe(card).items():
        write_line(f"{key + ': ':<14}{value}")


@command.command("import")
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.option("--as", "model", required=True, metavar="NAME", help="The model it is a checkpoint of.")
@output_option("The model folder; parts that it already holds stay.")
@click.option("--part", type=click.Choice(IMPORTED_PARTS), help="Which part it holds.  [default: by its names]")
@click.option(
    "--scale-factor",
    "scale",
    metavar="A[,B,C]",
    callback=lambda _, __, value: value and parse_factors(value),
    help="Latent scale, one or one per sequence.  [default: the checkpoint's own]",
)
@stream_options
def import_model(
    checkpoint: Path, model: str, out: Path, part: str | None, scale: tuple[float, ...] | None, as_json: bool
) -> None:
    """Turn the checkpoint CKPT (.pt, .pth, .ckpt, .pkl, .safetensors) into a model folder of safetensors.

    CKPT is what the authors' code saves, or a MAISI autoencoder. Nothing in it is executed; every name and shape has
    to match the model.
    """
    imported = import_checkpoint(checkpoint, find_card(model), out, part=part, scale=scale)
    if imported.left_out:
        say(f"Left out of {checkpoint.name}: {', '.join(imported.left_out)}.")
    say(f"The terms of the imported weights are their publisher's: state them under [licence] in {out / 'card.toml'}.")
    with Output("model", "part", "needs", "folder", as_json=as_json) as output:
        if as_json:
            output.add_object({**_summarise(imported.card), "part": imported.part, "path": out.as_posix()})
        else:
            output.add_row(imported.card.id, imported.part, availability(imported.card), out)


@command.command("push")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Make a new repository visible to everybody.  [default: private]")
@click.option("--message", metavar="TEXT", help="Of the commit.")
@click.option("--dry-run", is_flag=True, help="List what would be uploaded, and upload nothing.")
@stream_options
def push_folder(folder: Path, repo: str, public: bool, message: str | None, dry_run: bool, as_json: bool) -> None:
    """Upload the model folder DIR to the Hub as OWNER/NAME, with a README made from its card.

    The card and the files it names are uploaded, nothing else: checkpoints and previews of training stay here.
    """
    upload = prepare_upload(folder, repo)
    if availability(upload.card).startswith("train"):
        say(f"This model is not whole yet: {availability(upload.card)}.")
    commit = None if dry_run else push_model(upload, repo, public=public, message=message)
    names = [*upload.files, "README.md"]
    with Output("repository", "commit", "files", "MB", as_json=as_json) as output:
        if as_json:
            output.add_object({"repo": repo, "commit": commit, "files": names, "size": upload.size_bytes})
        else:
            output.add_row(repo, commit, " ".join(names), f"{upload.size_bytes / 1e6:.1f}")


def _summarise(card: Card) -> dict[str, object]:
    return {
        "id": card.id,
        "family": card.family,
        "title": card.title,
        "channels": list(card.image.channel_names),
        "shape": list(card.image.shape),
        "spacing_mm": None if card.image.spacing_mm is None else list(card.image.spacing_mm),
        "availability": availability(card),
        "digests": describe_pins(card),
        "licence": card.licence.id,
        "restricted": card.licence.restricted,
    }


def _describe_sampler(sampler: SamplerDefaults) -> str:
    steps = "1 step" if sampler.steps == 1 else f"{sampler.steps} steps"
    return f"{sampler.name}, {steps}, {guidance_words(sampler.guidance_scale, sampler.guidance_interval)}"


def _describe_preset(preset: Preset) -> str:
    figures = "; ".join(f"{key} {value}" for key, value in flatten_table(preset.measured, "").items())
    return _describe_sampler(preset.sampler) + (f" ({figures})" if figures else " (fidelity not measured)")


def _describe_generation(generation: Generation) -> dict[str, str]:
    """How the model makes images."""
    schedule = generation.schedule
    return {
        "sampler": _describe_sampler(generation.sampler),
        **{f"preset {name}": _describe_preset(preset) for name, preset in generation.presets.items()},
        "schedule": f"{schedule.train_timesteps} timesteps, {schedule.beta_schedule}, predicts {schedule.prediction}",
    }


def _describe(card: Card) -> dict[str, str]:
    """What a person wants to know of a model, one line each."""
    image = card.image
    spacing = "any" if image.spacing_mm is None else " x ".join(f"{step:g}" for step in image.spacing_mm)
    size = " x ".join(map(str, image.shape))
    lines = {
        "model": card.id,
        "title": card.title,
        "about": " ".join(card.description.split()),
        "use": " ".join(card.intended_use.split()),
        "availability": availability(card),
        "image": f"{size} voxels of {spacing} mm, {image.orientation or 'any'} orientation",
        "channels": ", ".join(f"{channel.name} [{channel.unit}]" for channel in image.channels),
    }
    if card.conditions:
        lines["conditions"] = ", ".join(card.conditions)
    if card.generation is not None:
        lines |= _describe_generation(card.generation)
    for part in card.parts.values():
        sizes = [file.size for file in part.files]
        stored = "size not stated" if None in sizes else f"{sum(size or 0 for size in sizes) / 1e6:.1f} MB"
        where = f"{len(part.files)} files, {stored}" if part.files else "no weights yet"
        if part.checkpoint is not None and not part.files:
            where = f"public as the checkpoint {part.checkpoint.path} of {part.checkpoint.repo}"
        lines[part.name] = f"{part.architecture} ({where})"
    lines["licence"] = f"{card.licence.name} ({card.licence.id}) {card.licence.url}".rstrip()
    lines |= flatten_table(card.measured, "measured")
    lines["citation"] = " ".join(card.citation.split())
    return lines

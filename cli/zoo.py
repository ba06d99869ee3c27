"""`ccella zoo`: the models at hand."""

import json
from collections.abc import Mapping

import click

from ..zoo.card import Card
from ..zoo.registry import availability, find_card, list_cards
from .options import stream_options
from .output import Output, write_line


@click.group()
def command() -> None:
    """List the models at hand, and show what is known of one."""


@command.command("list")
@stream_options
def list_models(as_json: bool) -> None:
    """List the models that ship with ccella.

    "ready" samples at once; "pull" needs weights from the Hub; "train or import" names the parts for which there are
    no public weights.
    """
    with Output("model", "grid", "needs", "licence", "title", as_json=as_json) as output:
        for card in list_cards():
            if as_json:
                output.add_object(_summarise(card))
            else:
                grid = "x".join(str(size) for size in card.image.shape)
                terms = f"{card.licence.id} (limits use)" if card.licence.restricted else card.licence.id
                output.add_row(card.id, grid, availability(card), terms, card.title)


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
        write_line(f"{key + ':':<14}{value}")


def _summarise(card: Card) -> dict[str, object]:
    return {
        "id": card.id,
        "family": card.family,
        "title": card.title,
        "channels": list(card.image.channel_names),
        "shape": list(card.image.shape),
        "spacing_mm": None if card.image.spacing_mm is None else list(card.image.spacing_mm),
        "availability": availability(card),
        "licence": card.licence.id,
        "restricted": card.licence.restricted,
    }


def _describe(card: Card) -> dict[str, str]:
    """What a person wants to know of a model, one line each."""
    image, schedule, sampler = card.image, card.schedule, card.sampler
    spacing = "any" if image.spacing_mm is None else " x ".join(f"{step:g}" for step in image.spacing_mm)
    size = " x ".join(map(str, image.shape))
    lines = {
        "model": card.id,
        "title": card.title,
        "about": card.description,
        "use": card.intended_use,
        "availability": availability(card),
        "image": f"{size} voxels of {spacing} mm, {image.orientation or 'any'} orientation",
        "channels": ", ".join(f"{channel.name} [{channel.unit}]" for channel in image.channels),
        "conditions": ", ".join(card.conditions),
        "sampler": f"{sampler.name}, {sampler.steps} steps, guidance {sampler.guidance_scale:g}",
        "schedule": f"{schedule.train_timesteps} timesteps, {schedule.beta_schedule}, predicts {schedule.prediction}",
    }
    for part in card.parts.values():
        stored = sum(file.size or 0 for file in part.files)
        where = f"{len(part.files)} files, {stored / 1e6:.1f} MB" if part.files else "no weights yet"
        lines[part.name] = f"{part.architecture} ({where})"
    lines["licence"] = f"{card.licence.name} ({card.licence.id}) {card.licence.url}".rstrip()
    lines |= _flatten(card.measured)
    lines["citation"] = " ".join(card.citation.split())
    return lines


def _flatten(table: Mapping[str, object], prefix: str = "measured") -> dict[str, str]:
    """Nested figures as dotted keys."""
    lines: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines |= _flatten(value, f"{prefix}.{key}")
        else:
            lines[f"{prefix}.{key}"] = str(value)
    return lines

"""The README of a published model, made from its card: what the Hub shows, and what a person wants to know first."""

import json
from collections.abc import Mapping
from typing import Any

from .card import Card

# Licences that the Hub knows by these ids; every other one is named in words.
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "gpl-3.0", "openrail",
}  # fmt: skip
# Long lists that a reader finds in card.toml.
_LEFT_TO_THE_CARD = ("options", "recipe", "versions", "left_out")


def flatten_table(table: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Nested tables as one, with dotted keys and values in words."""
    lines: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            lines |= flatten_table(value, name)
        else:
            lines[name] = str(value)
    return lines


def describe_model(card: Card, repo: str) -> str:
    """The README.md of a model folder that is published as `repo`: front matter and text, in Markdown."""
    sections = [
        _front_matter(card),
        f"# {card.title}",
        card.description.strip(),
        "## Intended use",
        card.intended_use.strip(),
        "What this model makes is synthetic. Files say so in their headers and sidecars.",
        "## Use",
        f"    hf download {repo} --local-dir model\n"
        "    ccella sample --model ./model --prompt report.txt -o out",
        "## What it makes",
        _images(card),
        "## Measured",
        _table(flatten_table(card.measured, "")) or "Nothing has been measured yet.",
        "## How it came about",
        _provenance(card) or "The card does not say.",
        "## Licence",
        _licence(card),
        "## Citation",
        " ".join(card.citation.split()),
        "## Files",
        _files(card),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def _front_matter(card: Card) -> str:
    licence = card.licence
    known = licence.id.lower() in _HUB_LICENCES
    lines: dict[str, Any] = {"license": licence.id.lower() if known else "other"}
    if not known:
        lines["license_name"] = licence.name
        if licence.url:
            lines["license_link"] = licence.url
    lines |= {
        "library_name": "ccella",
        "tags": ["medical", "synthetic", "latent-diffusion", card.family, *card.image.channel_names],
    }
    # JSON is YAML: a title with a colon or a quote stays what it is.
    return (
        "---\n" + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items()) + "\n---"
    )


def _images(card: Card) -> str:
    image = card.image
    spacing = (
        "any spacing" if image.spacing_mm is None else " x ".join(f"{step:g}" for step in image.spacing_mm) + " mm"
    )
    size = " x ".join(map(str, image.shape))
    rows = [f"| {item.name} | {item.unit} | {item.description} |" for item in image.channels]
    head = f"{size} voxels, {spacing}, {image.orientation or 'any'} orientation, from: {', '.join(card.conditions)}."
    return "\n".join([head, "", "| channel | unit | |", "|---|---|---|", *rows])


def _provenance(card: Card) -> str:
    loose = {key: value for key, value in card.provenance.items() if not isinstance(value, Mapping)}
    kept = {key: _abridge(value) for key, value in card.provenance.items() if isinstance(value, Mapping)}
    return _table(flatten_table(loose | kept, ""))


def _abridge(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is left to the card, in the tables inside too: a student's holds those of its teacher."""
    return {
        key: _abridge(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if key not in _LEFT_TO_THE_CARD
    }


def _licence(card: Card) -> str:
    licence = card.licence
    limits = " These terms limit what the model may be used for." if licence.restricted else ""
    return f"{licence.name} ({licence.id}) {licence.url}".rstrip() + "." + limits


def _files(card: Card) -> str:
    rows = ["| part | file | SHA-256 |", "|---|---|---|"]
    for part in card.parts.values():
        for file in part.files:
            place = f"{file.path} of {file.repo}" if file.repo else file.path
            rows.append(f"| {part.name} | {place} | {file.sha256} |")
        if not part.files:
            rows.append(f"| {part.name} | none: {part.note} | |")
    return "\n".join(rows)


def _table(lines: Mapping[str, str]) -> str:
    if not lines:
        return ""
    cell = {key: " ".join(value.split()).replace("|", "\\|") for key, value in lines.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cell.items())])

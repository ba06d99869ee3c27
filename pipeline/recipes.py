"""Recipes: how a volume was sampled, read from its sidecar, so that it can be sampled again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from ..imaging.layouts import parse_label
from ..imaging.names import check_id
from ..zoo.card import Card
from ..zoo.record import Record, parse_record
from .prompts import PromptItem, parse_seed, parse_spacing
from .sampler_settings import SampleSettings, choose_settings


@dataclass(frozen=True)
class Recipe:
    """What a sidecar says of how its volume was sampled.

    Attributes:
        item: The prompt with its conditions and seed.
        model: The model's entry: id, revision and file digests.
        sampler: name, steps, guidance_scale, eta and timesteps.
        precision: Floating-point precision.
        runtime: What executed the networks.
    """

    item: PromptItem
    model: Mapping[str, Any]
    sampler: Mapping[str, Any]
    precision: str
    runtime: str

    def settings(self, card: Card, *, latents_only: bool = False) -> SampleSettings:
        """The settings that sample it again; InputError where the sidecar's are out of range."""
        sampler = self.sampler
        try:
            return choose_settings(
                card,
                sampler=str(sampler["name"]),
                timesteps=[int(t) for t in sampler["timesteps"]],
                guidance_scale=float(sampler["guidance_scale"]),
                eta=float(sampler["eta"]),
                latents_only=latents_only,
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"The sampler {dict(sampler)} of {self.item.id} cannot be read.", "Give an unchanged sidecar."
            ) from error


def from_sidecar(path: Path) -> Recipe:
    """Reads how a volume or latent was sampled, to sample it again.

    Args:
        path: Its JSON sidecar.

    Raises:
        InputError: The file is missing, is no sidecar, or is one of something that was not sampled.
    """
    remedy = "Give the .json beside a volume that `ccella sample` wrote."
    record = _read_record(path, remedy)
    data = record.data
    for key, kind in (("prompt", str), ("seed", int), ("sampler", dict), ("conditions", dict), ("model", dict)):
        if not isinstance(data.get(key), kind):
            raise InputError(f"{path} does not say how its volume was sampled: {key!r} is {data.get(key)!r}.", remedy)
    conditions = data["conditions"]
    item = PromptItem(
        id=check_id(record.id, str(path)),
        text=data["prompt"],
        class_label=parse_label(conditions.get("class"), str(path)),
        spacing_mm=parse_spacing(conditions.get("spacing_mm"), str(path)),
        seed=parse_seed(data["seed"], str(path)),
        meta=dict(data.get("meta", {})),
        patient_id=data.get("patient_id"),
        prompt_id=data.get("prompt_id"),
    )
    precision, runtime = str(data.get("precision", "fp32")), str(data.get("runtime", "torch"))
    return Recipe(item, data["model"], data["sampler"], precision, runtime)


def _read_record(path: Path, remedy: str) -> Record:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"The sidecar {path} does not exist.", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a sidecar: it is binary.", remedy) from error
    try:
        return parse_record(text, base=path.parent.parent, source=str(path))
    except ValueError as error:
        raise InputError(str(error), remedy) from error

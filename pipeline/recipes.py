"""Recipes: how a volume was sampled, read from its sidecar, so that it can be sampled again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..export.provider_names import PROVIDERS
from ..imaging.errors import InputError
from ..imaging.layouts import parse_label
from ..imaging.names import check_id
from ..zoo.card import Card
from ..zoo.record import Record, parse_record
from .prompts import PromptItem, parse_seed, parse_spacing
from .sampler_settings import SampleSettings, choose_settings

if TYPE_CHECKING:
    from ..export.runtimes import Runtime


@dataclass(frozen=True)
class Recipe:
    """What a sidecar says of how its volume was sampled.

    Attributes:
        item: The prompt with its conditions and seed.
        model: The model's entry: id, revision and file digests.
        sampler: name, steps, guidance_scale, guidance_interval, eta and timesteps.
        precision: Floating-point precision.
        runtime: What executed the networks; for ONNX Runtime with its provider, such as `onnx:cpu`.
        provider: What of another runtime than PyTorch did, with its version.
        graphs: Digest of each exported graph.
    """

    item: PromptItem
    model: Mapping[str, Any]
    sampler: Mapping[str, Any]
    precision: str
    runtime: str
    provider: str | None = None
    graphs: Mapping[str, str] = field(default_factory=dict)

    def request_runtime(self, device: str) -> str:
        """The runtime to ask for: the sidecar's, but without its provider where `device` is one of another provider."""
        kind, _, provider = self.runtime.partition(":")
        return kind if provider and device != "auto" and (device == "cpu") != (provider == "cpu") else self.runtime

    def compare_runtime(self, runtime: "Runtime") -> str | None:
        """What the user should know where something else executes the networks now.

        Args:
            runtime: What executes them.

        Returns:
            A sentence where the provider is another one, or another version; None where all is as it was.

        Raises:
            InputError: A graph was exported anew.
        """
        for graph, digest in runtime.details.get("graphs", {}).items():
            if self.graphs and self.graphs.get(graph) != digest:
                raise InputError(
                    f"{self.item.id} was made with another export of the {graph}: its SHA-256 is {digest}, not "
                    f"{self.graphs.get(graph)}.",
                    "Give the model folder that it was made with; or sample its prompt anew with --prompt and --seed.",
                )
        provider = runtime.details.get("provider")
        if self.provider is None or provider == self.provider:
            return None
        return f"{self.item.id} was made with {self.provider}, and is made again with {provider}: digits may differ."

    def settings(self, card: Card, *, latents_only: bool = False) -> SampleSettings:
        """The settings that sample it again; InputError where the sidecar's are out of range."""
        sampler = self.sampler
        interval = sampler.get("guidance_interval")
        try:
            settings = choose_settings(
                card,
                sampler=str(sampler["name"]),
                timesteps=[int(t) for t in sampler["timesteps"]],
                guidance_scale=float(sampler["guidance_scale"]),
                guidance_interval=interval,
                eta=float(sampler["eta"]),
                latents_only=latents_only,
            )
            # Without one, all timesteps were guided, whatever the model's card says today.
            return settings if interval is not None else replace(settings, guidance_interval=None)
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
    precision, provider, graphs = str(data.get("precision", "fp32")), data.get("provider"), data.get("graphs", {})
    if not (isinstance(provider, str | None) and isinstance(graphs, dict)):
        raise InputError(f"{path} does not say how its volume was sampled: its provider or graphs are damaged.", remedy)
    return Recipe(item, data["model"], data["sampler"], precision, _name_runtime(data), provider, graphs)


def _name_runtime(data: Mapping[str, Any]) -> str:
    """The runtime as a user would ask for it, with the provider of ONNX Runtime where the sidecar names it."""
    runtime, provider = str(data.get("runtime", "torch")), str(data.get("provider")).partition(" ")[0]
    return next((f"onnx:{name}" for name, full in PROVIDERS.items() if runtime == "onnx" and provider == full), runtime)


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

"""Writing a model folder: card.toml, one safetensors file per part, the text encoder's folder."""

import copy
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..imaging.atomic import atomic_path, remove_remains, write_text
from .card import Card, parse_card, read_card
from .loading import part_paths, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

# Parts whose weights are worth nothing beside other weights of the parts they were trained with.
DEPENDENCIES = {"denoiser": ("autoencoder", "text_encoder")}
# What a card says of the latents that its denoiser was trained on.
LATENT_STATISTICS = ("scale", "mean", "std")


def dependents(card: Card, part: str) -> list[str]:
    """The parts of a card that have to be trained anew when `part` gets other weights."""
    return [name for name in card.parts if part in DEPENDENCIES.get(name, ())]


def folder_card(out: Path) -> Card | None:
    """The card of a model folder; None where there is none yet."""
    return read_card(out / "card.toml") if (out / "card.toml").is_file() else None


def write_model_folder(
    out: Path,
    card: Card,
    *,
    parts: "Mapping[str, Mapping[str, Tensor]] | None" = None,
    copy_parts: Sequence[str] = (),
    text_encoder: Path | None = None,
    drop: Collection[str] = (),
    updates: Mapping[str, Any] = {},
) -> Card:
    """Writes a model folder derived from a card.

    Each file appears under its name only when whole, and card.toml comes last: a killed run leaves the former card or
    none. Parts already in `out` from an earlier call are kept, with their configuration, provenance and figures; parts
    of the card that are neither given, copied nor kept are listed without files, as still to be trained. Figures go
    with the old weights, but for those named after a part that is not replaced, such as `autoencoder_psnr_db`.

    Args:
        out: The folder; created if need be.
        card: The model it derives from.
        parts: State dicts to store, by part; tensors are stored in the type they have.
        copy_parts: Parts whose files are taken over from the card.
        text_encoder: Folder of a text encoder to take in.
        drop: Parts that no longer fit the others: they are listed without files, wherever their weights would be from.
        updates: Values to set in the card, as nested tables; None removes a key.

    Returns:
        The new card.
    """
    if parts is None:
        parts = {}
    out.mkdir(parents=True, exist_ok=True)
    document = copy.deepcopy(dict(card.document))
    for name in updates.get("provenance", {}):
        # The record of a run is replaced, never mixed with that of the run before.
        document.get("provenance", {}).pop(name, None)
    replaced = {*parts, *(["text_encoder"] if text_encoder is not None else [])}
    if replaced or drop:
        _forget_figures(document, replaced.union(drop))
    kept = _keep_parts(document, folder_card(out), replaced.union(copy_parts, drop))
    _drop_parts(document, drop)
    document = _merge(document, updates)
    sources: dict[str, list[tuple[Path, str]]] = {name: part_sources(card, name) for name in copy_parts}
    if text_encoder is not None:
        files = sorted(path for path in text_encoder.iterdir() if path.is_file())
        sources["text_encoder"] = [(path, f"text_encoder/{path.name}") for path in files]
    for name, table in document["parts"].items():
        if name in parts:
            table["files"] = [_store(out, f"{name}.safetensors", parts[name])]
        elif name in sources:
            table["files"] = [_copy(source, out, target) for source, target in sources[name]]
        elif name not in kept:
            # Hub files stay where they are: a model folder refers to them as its template does.
            table["files"] = [row for row in table.get("files", []) if "repo" in row]
    parse_card(document, out / "card.toml")
    remove_remains([out / "card.toml"])
    write_card(out / "card.toml", document)
    return read_card(out / "card.toml")


def _store(out: Path, name: str, weights: "Mapping[str, Tensor]") -> dict[str, Any]:
    from safetensors.torch import save_file

    path = out / name
    remove_remains([path])
    with atomic_path(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary)
    return _describe(out, name)


def _keep_parts(document: dict[str, Any], former: Card | None, others: Collection[str]) -> list[str]:
    """Takes over, in place, what the folder's former card says of the parts that have weights there; their names."""
    if former is None:
        return []
    chosen = [name for name in document["parts"] if name in former.parts and name not in others]
    kept = [name for name in chosen if former.parts[name].files]
    for name in kept:
        document["parts"][name] = copy.deepcopy(former.document["parts"][name])
        for key in ("provenance", "measured"):
            own = {k: v for k, v in former.document.get(key, {}).items() if k.startswith(name)}
            rest = {k: v for k, v in document.pop(key, {}).items() if not k.startswith(name)}
            document |= {key: rest | copy.deepcopy(own)} if rest or own else {}
    return kept


def _drop_parts(document: dict[str, Any], names: Collection[str]) -> None:
    """Takes a card's parts their weights, in place, and what only holds with those."""
    for name in names:
        document["parts"][name].pop("files", None)
        document.get("provenance", {}).pop(name, None)
    if "denoiser" in names:
        document.get("provenance", {}).pop("teacher", None)
        for key in LATENT_STATISTICS:
            document.get("latent", {}).pop(key, None)


def _forget_figures(document: dict[str, Any], replaced: Collection[str]) -> None:
    """Drops what was measured with weights that are about to be replaced, in place."""
    others = tuple(name for name in document["parts"] if name not in replaced)
    figures = document.pop("measured", {})
    kept = {name: value for name, value in figures.items() if name.startswith(others)}
    document |= {"measured": kept} if kept else {}
    for preset in document.get("presets", {}).values():
        preset.pop("measured", None)


def write_card(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a card document as TOML, atomically."""
    import tomli_w

    write_text(path, tomli_w.dumps(dict(document)))


def part_sources(card: Card, name: str) -> list[tuple[Path, str]]:
    """A part's files on this machine and the names they get in a model folder."""
    paths = part_paths(card, name)
    prefix = "text_encoder/" if name == "text_encoder" else ""
    return [(path, prefix + path.name) for path in paths]


def _copy(source: Path, out: Path, target: str) -> dict[str, Any]:
    destination = out / target
    if not (destination.exists() and source.samefile(destination)):
        destination.parent.mkdir(parents=True, exist_ok=True)
        remove_remains([destination])
        with atomic_path(destination) as temporary:
            shutil.copyfile(source, temporary)
    return _describe(out, target)


def _describe(out: Path, name: str) -> dict[str, Any]:
    path = out / name
    return {"path": name, "sha256": sha256_file(path), "size": path.stat().st_size}


def _merge(document: dict[str, Any], updates: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in updates.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, Mapping):
            document[key] = _merge(dict(document.get(key, {})), value)
        else:
            document[key] = value
    return document

"""Random latents and the template of a denoiser that trains on them: neither exams nor an autoencoder are needed."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ccella.zoo.card import Card, parse_card
from ccella.zoo.folder import write_card
from ccella.zoo.registry import find_card

SMALL = {
    "adapter": {"width": 64, "text_width": 64, "latents": 16, "heads": 4, "blocks": 2, "class_hidden": 16},
    "unet": {
        "channels": [32, 64], "num_res_blocks": [1, 1], "attention_levels": [False, True], "num_head_channels": 32,
        "norm_num_groups": 16,
    },
}  # fmt: skip


def write_template(folder: Path, shape: tuple[int, int, int] | None) -> Card:
    """A card without weights: the published denoiser for `shape` None, else a small one for latents of that shape."""
    document: dict[str, Any] = copy.deepcopy(dict(find_card("ccella-pp").document))
    document["id"] = "bench/denoiser"
    document["training"] = {}
    for part in document["parts"].values():
        part.pop("files", None)
    if shape is not None:
        document["image"]["shape"] = [4 * size for size in shape]
        for name, numbers in SMALL.items():
            document["parts"]["denoiser"]["config"][name] |= numbers
    folder.mkdir(parents=True, exist_ok=True)
    write_card(folder / "card.toml", document)
    return parse_card(document, folder / "card.toml")


def write_latents(folder: Path, card: Card, count: int, tokens: int = 200) -> None:
    """Encoded exams as `ccella encode` leaves them, of random numbers; every fifth has no report."""
    width = card.part("denoiser").config["adapter"]["text_width"]
    (folder / "text").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        name, has_report = f"exam{number:03d}", number % 5 != 4
        (folder / name).mkdir(exist_ok=True)
        mean = torch.randn(card.latent_shape, generator=generator)
        tensors = {"mean": mean, "sigma": torch.full(card.latent_shape, 0.3)}
        save_file(tensors, folder / name / f"{name}_latent.safetensors")
        length = tokens - number % 7 if has_report else 1
        text = torch.randn(length, width, generator=generator)
        save_file({"embedding": text}, folder / f"text/{number}.safetensors")
        record = {
            "schema": "ccella.record/1", "id": name, "kind": "latent", "path": f"{name}/{name}_latent.safetensors",
            "patient_id": f"patient{number:03d}", "text_path": f"text/{number}.safetensors",
            "prompt": f"report {number}" if has_report else None, "class": number % 2,
            "spacing_mm": list(card.image.spacing_mm),
        }  # fmt: skip
        lines.append(json.dumps(record))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

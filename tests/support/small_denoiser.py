"""A denoiser of a few thousand weights, and encoded exams to train it on."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ccella.training.config import DenoiserTraining, resolve_options
from ccella.training.denoiser import DenoiserTask
from ccella.training.export import initial_network
from ccella.training.latents import latent_items
from ccella.zoo.card import Card, parse_card
from ccella.zoo.registry import find_card

SHAPE = (12, 4, 4, 2)
WIDTH = 16


def small_card(path: Path, prediction: str = "v_prediction") -> Card:
    document: dict[str, Any] = copy.deepcopy(dict(find_card("ccella-pp").document))
    document["image"] |= {"shape": [16, 16, 8]}
    document["schedule"]["prediction"] = prediction
    document["latent"].pop("scale", None)
    for part in document["parts"].values():
        part.pop("files", None)
    document["parts"]["denoiser"]["config"]["adapter"] |= {
        "width": 16, "text_width": WIDTH, "latents": 4, "heads": 2, "blocks": 1, "class_hidden": 8, "time_channels": 16,
    }  # fmt: skip
    document["parts"]["denoiser"]["config"]["unet"] |= {
        "channels": [16, 32], "num_res_blocks": [1, 1], "attention_levels": [False, True], "num_head_channels": 8,
        "norm_num_groups": 8,
    }  # fmt: skip
    return parse_card(document, path / "card.toml")


def write_latents(out: Path, shape: tuple[int, ...], digest: str = "0" * 64) -> Path:
    """Ten exams: their class is written in the sign of their report and of their latent."""
    (out / "text").mkdir(parents=True)
    lines = []
    for number in range(10):
        generator = torch.Generator().manual_seed(number)
        label, name = number % 2, f"e{number}"
        (out / name).mkdir()
        mean = 2 * torch.randn(shape, generator=generator) + 4 * (2 * label - 1)
        save_file({"mean": mean, "sigma": torch.full(shape, 0.3)}, out / name / f"{name}_latent.safetensors")
        text = torch.full((2 + number % 3, WIDTH), 2.0 * label - 1) if number != 9 else torch.zeros(1, WIDTH)
        save_file({"embedding": text}, out / f"text/{number}.safetensors")
        lines.append(json.dumps({
            "schema": "ccella.record/1", "id": name, "kind": "latent", "path": f"{name}/{name}_latent.safetensors",
            "patient_id": f"p{number}", "text_path": f"text/{number}.safetensors",
            "prompt": None if number == 9 else f"report {number}", "class": None if number == 8 else label,
            "spacing_mm": [1.5, 1.5, 3.0],
            "model": {"id": "x", "files": {"autoencoder/autoencoder.safetensors": digest}},
        }))  # fmt: skip
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def options(**changes: Any) -> DenoiserTraining:
    base = {"steps": 4, "batch_size": 4, "validation_fraction": 0.3, "device": "cpu", "log_every": 1,
            "learning_rate": 3e-3, "checkpoint_every": 2}  # fmt: skip
    return resolve_options(DenoiserTraining, "denoiser", {}, base | changes)


def make_task(card: Card, folder: Path, **changes: Any) -> DenoiserTask:
    chosen = options(**changes)
    items = latent_items(folder, card.latent_shape)
    null = items.null_text()
    assert null is not None
    return DenoiserTask(card, items, initial_network(card, "denoiser", chosen), null, chosen)

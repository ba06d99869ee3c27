"""Writes what a T2-weighted phantom model is trained from: the bundled model with one sequence's latent channels.

The denoiser begins as the bundled one, cut to the channels of that sequence: it knows the reports already and has to
learn to draw one sequence without seeing the others.

python bench/t2w_template.py runs/t2w/template
"""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from ccella.zoo.card import Card
from ccella.zoo.folder import write_card
from ccella.zoo.loading import sha256_file
from ccella.zoo.registry import DEFAULT_MODEL, find_card

SEQUENCE = "t2w"
# Autoencoder and text encoder see one sequence, or none, and are taken as they are.
KEPT = ("autoencoder", "text_encoder")
SHAPED = ("in_channels", "out_channels")
WEIGHTS = "denoiser.safetensors"
# The bundled model's last step is at 44. Of one sequence alone the steps below this one make more grain than detail.
LAST_TIMESTEP = 118
# The last run's options of the bundled model, shorter.
OPTIONS = {
    "initial": "card", "steps": 2000, "learning_rate": 6e-4, "warmup_steps": 50, "region_weight": 1000.0,
    "region_weight_final": 100.0,
}  # fmt: skip


def cut_weights(card: Card, out: Path) -> None:
    """Writes the denoiser's weights with the latent channels of the sequence alone."""
    width = card.latent.channels_per_image_channel
    first = card.image.channel_names.index(SEQUENCE) * width
    others = card.latent.channels
    weights = load_file(card.directory / WEIGHTS)
    into, outof = "unet.conv_in.conv.weight", "unet.out.2.conv"
    # The inputs after the latent channels are coordinates, which stay.
    columns = [*range(first, first + width), *range(others, weights[into].shape[1])]
    weights[into] = weights[into][:, columns]
    for name in (f"{outof}.weight", f"{outof}.bias"):
        weights[name] = weights[name][first : first + width]
    save_file(weights, out)


def make_template(card: Card, weights: Path) -> dict[str, Any]:
    """The document of the template.

    Args:
        card: A model of several sequences, T2-weighted among them.
        weights: The denoiser's, cut to that sequence.

    Returns:
        The same with that sequence alone, without figures.
    """
    document = copy.deepcopy(dict(card.document))
    place = card.image.channel_names.index(SEQUENCE)
    document |= {
        "id": "ccella/phantom",
        "title": "CCELLA on phantoms: a report in, a T2-weighted image out",
        "description": "The bundled bpMRI model's recipe on the T2-weighted sequence alone, begun with its weights. "
        "What it generates is a phantom, not clinical evidence.",
    }
    document["image"]["channels"] = [document["image"]["channels"][place]]
    latent = document["latent"]
    latent["channels"] = latent["channels_per_image_channel"]
    # Measured on the training latents when training starts.
    for name in ("scale", "mean", "std"):
        latent.pop(name, None)
    denoiser = document["parts"]["denoiser"]
    denoiser["files"] = [{"path": WEIGHTS, "sha256": sha256_file(weights), "size": weights.stat().st_size}]
    denoiser["config"]["unet"] |= dict.fromkeys(SHAPED, latent["channels"])
    document["training"]["denoiser"].pop("channel_weights", None)
    document["training"]["denoiser"] |= OPTIONS
    document.pop("measured", None)
    document["sampler"]["last_timestep"] = LAST_TIMESTEP
    for preset in document["presets"].values():
        preset.pop("measured", None)
    fast = document["presets"]["fast"]
    fast["timesteps"] = [step for step in fast["timesteps"] if step >= LAST_TIMESTEP]
    fast["steps"] = len(fast["timesteps"])
    return document


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    card = find_card(DEFAULT_MODEL)
    for name in KEPT:
        for file in card.part(name).files:
            target = out / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(card.directory / file.path, target)
    cut_weights(card, out / WEIGHTS)
    write_card(out / "card.toml", make_template(card, out / WEIGHTS))
    print(f"The template lies in {out}.")


if __name__ == "__main__":
    main()

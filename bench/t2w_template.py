"""Writes the template of a T2-weighted phantom model: the bundled model with one sequence and a denoiser to be trained.

python bench/t2w_template.py runs/t2w/template
"""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

from ccella.zoo.card import Card
from ccella.zoo.folder import write_card
from ccella.zoo.registry import DEFAULT_MODEL, find_card

SEQUENCE = "t2w"
# Autoencoder and text encoder see one sequence, or none, and are taken as they are.
KEPT = ("autoencoder", "text_encoder")
SHAPED = ("in_channels", "out_channels")


def make_template(card: Card) -> dict[str, Any]:
    """The document of the template.

    Args:
        card: A model of several sequences, T2-weighted among them.

    Returns:
        The same with that sequence alone and without a denoiser's weights or figures.
    """
    document = copy.deepcopy(dict(card.document))
    place = card.image.channel_names.index(SEQUENCE)
    document |= {"id": "ccella/phantom", "title": "CCELLA on phantoms: a report in, a T2-weighted image out"}
    document["image"]["channels"] = [document["image"]["channels"][place]]
    latent = document["latent"]
    latent["channels"] = latent["channels_per_image_channel"]
    # Measured on the training latents when training starts.
    for name in ("scale", "mean", "std"):
        latent.pop(name, None)
    denoiser = document["parts"]["denoiser"]
    denoiser.pop("files", None)
    denoiser["config"]["unet"] |= dict.fromkeys(SHAPED, latent["channels"])
    document["training"]["denoiser"].pop("channel_weights", None)
    document.pop("measured", None)
    document.get("provenance", {}).pop("denoiser", None)
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
    write_card(out / "card.toml", make_template(card))
    print(f"The template lies in {out}.")


if __name__ == "__main__":
    main()

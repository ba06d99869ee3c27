"""A whole model folder with random weights, and a few small exams."""

import math
from pathlib import Path

import numpy as np

SHAPE = (16, 16, 8)
SPACING_MM = (2.0, 2.0, 4.0)
WORDS = (
    "left", "right", "peripheral", "transition", "zone", "lesion", "no", "suspicious", "pirads", "3", "4", "5", "apex",
    "mid", "base", "mm", "prostate", "normal",
)  # fmt: skip

CARD = {
    "schema": 1,
    "id": "tiny/random",
    "family": "ccella",
    "title": "A tiny model with random weights",
    "description": "For tests.",
    "intended_use": "Tests.",
    "conditions": ["text", "class", "spacing"],
    "citation": "None.",
    "image": {
        "axes": "xyz",
        "shape": list(SHAPE),
        "spacing_mm": list(SPACING_MM),
        "orientation": "RAS",
        "channels": [
            {
                "name": name,
                "unit": "a.u.",
                "intensity": {"kind": "percentile", "lower": 0.0, "upper": 99.5, "output": [0.0, 1000.0]},
            }
            for name in ("t2w", "hbv")
        ]
        + [{"name": "adc", "unit": "1e-6 mm2/s", "intensity": {"kind": "window", "lower": 0.0, "upper": 3000.0}}],
    },
    "latent": {"channels": 12, "channels_per_image_channel": 4, "downsample": 4, "scale": [1.0, 0.8, 1.25]},
    "schedule": {
        "train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "prediction": "v_prediction",
    },
    # A network that predicts the noise divides its rounding errors by the signal level of the first timestep, and one
    # of random weights never mends them. At 999 that level is 0.012, at 700 it is ten times higher.
    "sampler": {"name": "ddim", "steps": 3, "guidance_scale": 1.5, "timesteps": [700, 450, 200]},
    "licence": {"id": "Apache-2.0", "name": "Apache License 2.0"},
    "parts": {
        "text_encoder": {"architecture": "transformers", "config": {"window": 24}},
        "autoencoder": {
            "architecture": "maisi_autoencoder",
            "config": {"channels": [4, 8, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
        },
        "denoiser": {
            "architecture": "ccella_denoiser",
            "config": {
                "adapter": {
                    "width": 16,
                    "text_width": 16,
                    "latents": 4,
                    "heads": 2,
                    "blocks": 2,
                    "class_hidden": 8,
                    "time_channels": 16,
                },
                "unet": {
                    "in_channels": 12,
                    "out_channels": 12,
                    "channels": [8, 16],
                    "num_res_blocks": [1, 1],
                    "attention_levels": [False, True],
                    "num_head_channels": 8,
                    "norm_num_groups": 4,
                },
            },
        },
    },
}


def write_tiny_text_encoder(folder: Path) -> Path:
    """A T5 encoder of random weights whose tokenizer knows a few words; everything from a fixed seed."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=24
    )
    model = T5EncoderModel(T5Config(vocab_size=len(vocabulary), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4))
    randomise(model, torch.Generator().manual_seed(2))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def randomise(module, generator):
    """Random values for every parameter: layers that start at zero would hide what is behind them."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                # Norm weights around 1, biases around 0.
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel()), generator=generator)
    return module


def write_tiny_model(root: Path) -> Path:
    """A model folder that loads and samples in a second: autoencoder, denoiser and text encoder with random weights."""
    import torch

    from ccella.zoo.card import parse_card
    from ccella.zoo.family import load_family
    from ccella.zoo.folder import write_model_folder

    card = parse_card(CARD, root / "template.toml")
    family = load_family(card.family)
    parts = {}
    for seed, name in enumerate(("autoencoder", "denoiser")):
        network = family.build(card.part(name))
        parts[name] = randomise(network, torch.Generator().manual_seed(seed)).state_dict()
    encoder = write_tiny_text_encoder(root / "encoder")
    write_model_folder(root / "model", card, parts=parts, text_encoder=encoder)
    return root / "model"


def write_tiny_exams(root: Path) -> Path:
    """Three small exams in PI-CAI layout with reports and a marksheet; the third has no report."""
    from ccella.imaging.files import write_volume
    from ccella.imaging.volume import Volume, reference_affine

    rng = np.random.default_rng(7)
    rows = ["patient_id,study_id,case_csPCa"]
    (root / "reports").mkdir(parents=True)
    for number, positive in enumerate((True, False, True), 1):
        patient, study = f"1000{number}", f"100000{number}"
        exam = f"{patient}_{study}"
        rows.append(f"{patient},{study},{'YES' if positive else 'NO'}")
        affine = reference_affine((18, 18, 8), SPACING_MM)
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (18, 18, 8)), indexing="ij")
        gland = np.exp(-3 * (x**2 + y**2 + z**2))
        for channel, top in (("t2w", 800.0), ("hbv", 300.0), ("adc", 2500.0)):
            data = top * (0.2 + 0.7 * gland) + rng.normal(0, 0.02 * top, gland.shape)
            image = Volume(np.clip(data, 1, None).astype(np.float32), affine)
            write_volume(root / patient / f"{exam}_{channel}.nii.gz", image, description="test")
        if number < 3:
            text = "Lesion left peripheral zone, PIRADS 5" if positive else "No suspicious lesion. Prostate normal"
            (root / "reports" / f"{exam}.txt").write_text(text, encoding="utf-8")
    (root / "marksheet.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root

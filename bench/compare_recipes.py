"""The published recipe of the denoiser against the bundled one, on the bundled model's exams: what each has learned.

Trains the bundled network, or a narrower one, from random weights with each recipe, with the same exams, steps,
batches, optimizer and seed, samples one exam for each of N unseen reports from the same noise with the same sampler
(DDIM without guidance, which the published recipe cannot have), compares them with the phantoms of the same reports
(KID, whole volumes, mean of the sequences) and reads them with the reader of `ccella evaluate prompt`. Trainings
resume.

    python bench/compare_recipes.py --latents runs/bundled/latents --masks runs/bundled/phantoms/masks
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import report
from prompt_fidelity import TEST_SEED, run, write_prompts
from samplers import compare_sets, volume_features

from ccella.evaluation.prompts import evaluate_prompt

MODEL = "ccella-pp/phantom"
EXTRACTOR = "pyramid"
FIGURES = ("lesion_auc", "side_accuracy", "zone_accuracy")
# What the rows without masks have in common; rates and batches are the bundled card's in all rows, since the published
# ones are meant for a hundred times as many steps. `published` is noise prediction, absolute error and uniform
# timesteps; `v-prediction` squared error and timesteps drawn towards noise; `without-masks` the bundled recipe but for
# its regions.
PLAIN = """
region_weight = 0.0
region_weight_final = 0.0
channel_weights = []
"""
NOISY = """
[model.schedule]
prediction = "{prediction}"
preconditioning = "none"
[denoiser]
latent_scale = "channel"
"""
RECIPES = {
    "published": NOISY.format(prediction="epsilon") + 'loss = "l1"\ncondition_dropout = 0.0' + PLAIN,
    "v-prediction": NOISY.format(prediction="v_prediction") + 'loss = "mse"\ntimestep_density = "high_noise"' + PLAIN,
    "without-masks": "[denoiser]" + PLAIN,
    "bundled": '[denoiser]\nregions = "{masks}"\n',
}


def train_recipe(name: str, options: argparse.Namespace) -> None:
    """Trains with a recipe, going on where an earlier run stopped."""
    recipe = options.work / f"{name}.toml"
    text = RECIPES[name].replace("{masks}", str(options.masks.resolve()))
    if options.channels:
        text += f"\n[model.parts.denoiser.config.unet]\nchannels = {options.channels}\n"
    recipe.write_text(text, encoding="utf-8")
    run(
        *("train", "denoiser", options.latents, "--model", MODEL, "-o", options.work / name),
        *("--config", recipe, "--resume", "-q"),
        *("--steps", options.steps, "--set", f"batch_size={options.batch_size}"),
        *("--set", f"validate_every={options.steps}", "--set", "checkpoint_every=200", "--set", "warmup_steps=50"),
        *("--set", f"ema_decay={options.ema_decay}", "--set", "channels_last=true"),
    )


def measure_recipe(name: str, options: argparse.Namespace, phantoms: Path) -> dict[str, Any]:
    """Samples and reads; the figures with their intervals."""
    samples = options.work / f"samples-{name}"
    model = options.work / name
    run(
        *("sample", "--prompt", options.work / "prompts.jsonl", "--model", model, "-o", samples, "-q", "--resume"),
        *("--sampler", "ddim", "--steps", options.sampling_steps, "--guidance", 1, "--batch-size", 8),
    )
    real, synthetic = (volume_features(folder, MODEL, EXTRACTOR) for folder in (phantoms, samples))
    return {**evaluate_prompt(samples, phantoms), "fidelity": compare_sets(real, synthetic)}


def start_shards(count: int) -> None:
    """Runs the trainings in several processes, one thread and one core each."""
    words = [sys.executable, *sys.argv]
    running = []
    for number in range(count):
        command = [*words, "--train-only", "--shard", f"{number}/{count}"]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        os.sched_setaffinity(process.pid, {sorted(os.sched_getaffinity(0))[number]})
        running.append(process)
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"A training ended with the exit codes {codes}; the same command goes on.")


def figure_rows(name: str, document: dict[str, Any]) -> list[tuple[str, object]]:
    """The figures of a recipe as rows of the result."""
    kid = document["fidelity"]
    low, high = kid["kid_interval"]
    rows: list[tuple[str, object]] = [
        (f"{name}: KID", f"{kid['kid']:.3g}  [{low:.3g}, {high:.3g}], floor {kid['kid_floor']:.2g}"),
        (f"{name}: class head AUC", f"{document['class_head_auc']:.3f}"),
    ]
    for figure in FIGURES:
        entry = document["synthetic"]["figures"][figure]
        low, high = entry["interval"]
        rows.append((f"{name}: {figure}", f"{entry['value']:.3f}  [{low:.3f}, {high:.3f}]"))
    return rows


def summarise(document: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a recipe: no readings of single exams."""
    kept = {name: document[name] for name in ("exams", "positives", "reader", "versions", "class_head_auc", "fidelity")}
    return kept | {name: document["synthetic"][name] for name in ("figures", "places")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, required=True, help="of the training exams, by the bundled encoder")
    parser.add_argument("--masks", type=Path, required=True, help="the lesions' masks of the same exams")
    parser.add_argument("--work", type=Path, default=Path("runs/compare-recipes"))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--ema-decay", type=float, default=0.99, help="short runs need a short average")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--channels", type=int, nargs="+", help="of the U-Net's levels; default: the bundled network's")
    parser.add_argument("-n", type=int, default=100, help="reports")
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--shards", type=int, default=2, help="trainings at a time, a core each")
    parser.add_argument("--train-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--shard", default="0/1", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.train_only:
        place, count = map(int, options.shard.split("/"))
        for name in options.recipes[place::count]:
            train_recipe(name, options)
        return
    start_shards(options.shards)
    phantoms = options.work / f"phantoms-{options.n}"
    run("phantom", "-n", options.n, "--seed", TEST_SEED, "--prevalence", 0.5, "-o", phantoms, "-q")
    write_prompts(phantoms, options.work / "prompts.jsonl")
    rows: list[tuple[str, object]] = [("steps, batch", f"{options.steps}, {options.batch_size}")]
    documents = {}
    for name in options.recipes:
        documents[name] = measure_recipe(name, options, phantoms)
        rows += figure_rows(name, documents[name])
    report("compare_recipes", rows, {name: summarise(document) for name, document in documents.items()})


if __name__ == "__main__":
    main()

"""One training step of the published denoiser against the same step written plainly with MONAI's classes.

    python bench/train_step.py                     full size, batch 1: 20 GB of memory
    python bench/train_step.py --size 16,16,8      a small network on small latents

Both start from the same weights, and the two losses are compared before anything is timed. Each variant runs in a
process of its own; seconds are the median of the steps after the first, and CPU seconds say what a busy machine hides.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import peak_memory_gib, report
from plain_step import WINDOW, Denoiser, plain_loss
from small_latents import write_latents, write_template

from ccella.training.config import DenoiserTraining
from ccella.training.denoiser import DenoiserTask
from ccella.training.engine import Engine
from ccella.training.export import initial_network
from ccella.training.latents import latent_items
from ccella.zoo.card import Card, read_card

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VARIANTS = {
    "plain fp32": {"precision": "fp32"},
    "plain bf16": {"precision": "bf16"},
    "ccella fp32": {"precision": "fp32"},
    "ccella fp32, channels last": {"precision": "fp32", "channels_last": True},
    "ccella bf16": {"precision": "bf16"},
    "ccella bf16, channels last": {"precision": "bf16", "channels_last": True},
    "ccella bf16, channels last, recomputed": {
        "precision": "bf16", "channels_last": True, "recompute_activations": True,
    },
}  # fmt: skip


def make_task(base: Path, batch: int, variant: dict[str, Any], ema: float) -> DenoiserTask:
    """The published recipe on the random latents."""
    card = read_card(base / "template/card.toml")
    options = DenoiserTraining(
        batch_size=batch, device=DEVICE, ema_decay=ema, loss="l1",
        condition_dropout=0.0, validation_fraction=0.0, **variant,
    )  # fmt: skip
    items = latent_items(base / "latents", card.latent_shape)
    null = items.null_text()
    assert null is not None
    return DenoiserTask(card, items, initial_network(card, "denoiser", options), null, options)


def plain_stepper(task: DenoiserTask, card: Card, precision: str) -> Callable[[], float]:
    """The published loop: AdamW, autocast, clipping, no average of the weights."""
    config: dict[str, Any] = copy.deepcopy(dict(card.part("denoiser").config))
    network = Denoiser(config)
    network.load_state_dict(task.objective.denoiser.state_dict(), strict=True)  # type: ignore[union-attr, operator]
    network.to(DEVICE)
    task.objective = torch.nn.Module()
    optimizer = torch.optim.AdamW(network.parameters(), lr=task.options.learning_rate)
    batch = draw_batch(task)
    text = torch.zeros(len(batch["text"]), max(WINDOW, batch["text"].shape[1]), batch["text"].shape[2])
    text[:, : batch["text"].shape[1]] = batch["text"]
    batch = {name: value.to(DEVICE) for name, value in {**batch, "text": text}.items()}

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            loss = plain_loss(network, batch, task.options.class_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def draw_batch(task: DenoiserTask) -> dict[str, torch.Tensor]:
    """The first items of the set, with noise of fixed seeds."""
    items = [task.draw(place, torch.Generator().manual_seed(place)) for place in range(task.options.batch_size)]
    return task.collate(items)


def compare_losses(task: DenoiserTask, card: Card) -> float:
    """Relative difference of the two losses on one batch, the plain one without padding of the text."""
    # Every item's text is cut to one length: torch's attention in the plain step knows no padding.
    batch = draw_batch(task)
    shortest = int(batch["mask"].sum(dim=1).min())
    batch = {**batch, "text": batch["text"][:, :shortest], "mask": batch["mask"][:, :shortest]}
    network = Denoiser(copy.deepcopy(dict(card.part("denoiser").config)))
    network.load_state_dict(task.objective.denoiser.state_dict(), strict=True)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        plain = float(plain_loss(network, batch, task.options.class_weight))
        ours = float(task.objective(batch, 0)[0])
    return abs(plain - ours) / abs(plain)


def measure(base: Path, name: str, steps: int, batch: int, ema: float) -> None:
    """Times one variant and prints the figures as JSON."""
    variant = VARIANTS[name]
    task = make_task(base, batch, variant, ema if name.startswith("ccella") else 0.0)
    card = read_card(base / "template/card.toml")
    if name.startswith("plain"):
        step = plain_stepper(task, card, str(variant["precision"]))
    else:
        engine = Engine(task, task.options)

        def step() -> float:
            return engine.advance().scalars["loss"]

    walls, processor = [], []
    for _ in range(steps + 1):
        wall, used = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - used)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else peak_memory_gib()
    figures = {"s": statistics.median(walls[1:]), "cpu_s": statistics.median(processor[1:]), "gib": memory}
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", help="X,Y,Z of a small latent; the published size without")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights in our steps, as in training")
    parser.add_argument("--only", default="", help="variants whose name contains this, besides plain fp32")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options.base, options.variant, options.steps, options.batch, options.ema)
        return
    size = tuple(int(number) for number in options.size.split(",")) if options.size else None
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        card = write_template(base / "template", size)
        write_latents(base / "latents", card, 5)
        difference = compare_losses(make_task(base, options.batch, {}, 0.0), card)
        if difference > 1e-4:
            raise SystemExit(f"The plain step computes another loss: relative difference {difference:.1e}.")
        rows: list[tuple[str, Any]] = [
            ("latent", f"{'x'.join(map(str, card.latent_shape))}, batch {options.batch}"),
            ("difference of the losses", f"{difference:.1e}"),
        ]
        first = None
        for name in VARIANTS:
            if name != "plain fp32" and options.only not in name:
                continue
            command = [sys.executable, __file__, "--variant", name, "--base", str(base), "--steps", str(options.steps),
                       "--batch", str(options.batch), "--ema", str(options.ema)]  # fmt: skip
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            figures = json.loads(line)
            first = first or figures
            rows.append(
                (name, f"{figures['s']:.3g} s ({figures['s'] / first['s']:.2f}), {figures['cpu_s']:.3g} CPU s "
                 f"({figures['cpu_s'] / first['cpu_s']:.2f}), peak {figures['gib']:.1f} GiB")
            )  # fmt: skip
    report("train_step" if size is None else "train_step_small", rows)


if __name__ == "__main__":
    main()

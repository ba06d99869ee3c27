"""Pretraining of the small T5 text encoder on phantom reports.

The encoder learns to state the findings of a report through linear heads on the mean of its output tokens. The mean is
deliberate: a perceiver that reads the text attends to all tokens alike when its training begins, so what the mean tells
linearly is within the denoiser's reach from the first step. The heads are thrown away; the encoder is then frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..imaging.atomic import write_json
from ..imaging.errors import InputError
from ..zoo.card import Card
from .checkpoints import latest_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from .randomness import NETWORK, TRAINING, derive_seed, scoped_seed
from .text_batches import (
    HELD_OUT_START,
    TextBatch,
    collate_readings,
    draw_report,
    encode_readings,
    iterate_batches,
)
from .text_networks import EncoderShape, build_encoder, build_optimizers, pool_tokens, save_encoder, thin_mask
from .text_targets import FindingHeads, heads_figures, heads_loss, stack_targets
from .text_tokenizer import save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WARMUP_STEPS = 100
RECIPE_OPTIONS = ("steps", "late_steps", "batch_size", "learning_rate")


def learning_rate_at(step: int, steps: int, late_steps: int, peak: float) -> float:
    """Return the rate of a step: warm-up, then a half cosine to zero; the late phase does so again at two thirds."""
    if step >= steps:
        step, steps, peak = step - steps, late_steps, peak * 2 / 3
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


@torch.no_grad()
def evaluate_encoder(
    encoder: nn.Module, heads: FindingHeads, tokenizer: Tokenizer, *, seed: int, count: int
) -> dict[str, float]:
    """Return the heads' figures on `count` held-out reports, from the plain mean over all tokens."""
    pairs = encode_readings(tokenizer, [draw_report(seed, HELD_OUT_START + index) for index in range(count)])
    outputs: list[dict[str, Tensor]] = []
    for start in range(0, count, 64):
        batch = collate_readings(pairs[start : start + 64])
        tokens = encoder(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        outputs.append(heads(pool_tokens(tokens, batch.mask)))
    joined = {name: torch.cat([part[name] for part in outputs]) for name in outputs[0]}
    return heads_figures(joined, stack_targets([reading.findings for _, reading in pairs]))


def resolve_recipe(card: Card, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card's [training.text_encoder], overruled by what was given; options of `pretrain_text_encoder`.

    Raises:
        InputError: The card names an option that there is not.
    """
    table = dict(card.training.get("text_encoder", {}))
    for name in table:
        if name not in RECIPE_OPTIONS:
            raise InputError(
                f"Training option {name!r} in the card's [training.text_encoder] is unknown.",
                f"The options are: {', '.join(RECIPE_OPTIONS)}.",
            )
    return table | dict(given)


def pretrain_text_encoder(
    out: Path,
    *,
    steps: int = 2000,
    late_steps: int = 0,
    batch_size: int = 24,
    seed: int = 0,
    learning_rate: float = 3e-3,
    log: Callable[[str], object] = print,
    checkpoint_every: int = 500,
    resume: bool = False,
    shape: EncoderShape | None = None,
    tokenizer_reports: int = 4000,
    held_out: int = 1000,
) -> dict[str, Any]:
    """Pretrain the text encoder and write it to `<out>/text_encoder/` as a folder that transformers loads offline.

    Args:
        out: Folder for `text_encoder/` and for the checkpoints in `training/text_encoder/`.
        steps: Optimiser steps.
        late_steps: Further steps on texts that name more than one place or side. A finished run can be resumed with
            them; nothing before them depends on their number.
        batch_size: Reports per step.
        seed: Seed of weights and reports.
        learning_rate: Peak rate of both optimizers.
        log: Receives one line now and then.
        checkpoint_every: Steps between checkpoints.
        resume: Go on from the checkpoint when there is one; the result equals that of an unbroken run.
        shape: Size of the encoder; None means the default.
        tokenizer_reports: Reports that the tokenizer is trained on.
        held_out: Reports that the figures are measured on.

    Returns:
        What `pretraining.json` holds: recipe, figures on held-out reports, parameter count, seconds.

    Raises:
        InputError: The folder holds a run and `resume` is False, or the run to resume has another recipe.
    """
    recipe = {
        "steps": steps,
        "late_steps": late_steps,
        "batch_size": batch_size,
        "seed": seed,
        "learning_rate": learning_rate,
        "tokenizer_reports": tokenizer_reports,
        **asdict(shape or EncoderShape()),
    }
    run = _Run(Path(out), shape or EncoderShape(), recipe, log)
    run.start(resume)
    run.train(checkpoint_every)
    return run.finish(held_out)


class _Run:
    """State of one pretraining: networks, optimizer, tokenizer, step, seconds."""

    def __init__(self, out: Path, shape: EncoderShape, recipe: dict[str, Any], log: Callable[[str], object]) -> None:
        self.folder = out / "text_encoder"
        self.checkpoints = out / "training" / "text_encoder" / "checkpoints"
        self.shape, self.recipe, self.log = shape, recipe, log
        self.seed: int = recipe["seed"]
        self.encoder = build_encoder(shape, self.seed)
        with scoped_seed(derive_seed(self.seed, NETWORK, 1)):
            self.heads = FindingHeads(shape.width)
        self.networks = nn.ModuleDict({"encoder": self.encoder, "heads": self.heads})
        self.optimizers = build_optimizers(self.networks, recipe["learning_rate"])
        self.step = 0
        self.seconds = 0.0

    def start(self, resume: bool) -> None:
        """Train the tokenizer, or take everything from the newest checkpoint."""
        from tokenizers import Tokenizer

        checkpoint = latest_checkpoint(self.checkpoints)
        if checkpoint is None:
            reports = (draw_report(self.seed, index).text for index in range(self.recipe["tokenizer_reports"]))
            self.tokenizer = train_tokenizer(reports, self.shape.vocabulary)
            return
        if not resume:
            raise InputError(
                f"{self.checkpoints} already holds a run of {checkpoint.step} steps.",
                "Resume it, or choose another folder.",
            )
        state = checkpoint.state()
        for name, value in self.recipe.items():
            # The late phase may be added to a finished run, and so to one from before there was such a phase.
            added = name == "late_steps" and checkpoint.step <= self.recipe["steps"]
            if state["recipe"].get(name) != value and not added:
                raise InputError(
                    f"{checkpoint.path} was written with {name} = {state['recipe'].get(name)!r}, not {value!r}.",
                    "Resume with the same settings, or choose another folder.",
                )
        self.tokenizer = Tokenizer.from_str(state["tokenizer"])
        parameters = dict(self.networks.named_parameters())
        saved = checkpoint.tensors("networks")
        if saved.keys() != parameters.keys():
            raise InputError(f"{checkpoint.path} holds another network.", "Start again in another folder.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, parameters, checkpoint.tensors(name))
        self.step, self.seconds = checkpoint.step, state["seconds"]

    def save(self) -> None:
        """Write a checkpoint; the newest one is kept."""
        names = {id(parameter): name for name, parameter in self.networks.named_parameters()}
        # Parameters, not the state dict: T5 lists its tied embedding there twice.
        parameters = dict(self.networks.named_parameters())
        state = {"recipe": self.recipe, "seconds": self.seconds, "tokenizer": self.tokenizer.to_str()}
        groups: dict[str, Mapping[str, Tensor]] = {"networks": parameters}
        for name, optimizer in self.optimizers.items():
            groups[name] = optimizer_tensors(optimizer, names)
        save_checkpoint(self.checkpoints, self.step, groups, state, keep=1)

    def train(self, checkpoint_every: int) -> None:
        """Take the remaining steps."""
        late_from, batch_size = self.recipe["steps"], self.recipe["batch_size"]
        steps = late_from + self.recipe["late_steps"]
        began, base = perf_counter(), self.seconds
        losses: list[float] = []
        for batch in iterate_batches(self.tokenizer, self.seed, batch_size, self.step, late_from):
            if self.step >= steps:
                break
            losses.append(self.take_step(batch))
            self.step += 1
            self.seconds = base + perf_counter() - began
            if self.step % 50 == 0 or self.step == steps:
                mean_loss = sum(losses) / len(losses)
                self.log(f"text encoder: step {self.step} of {steps}, loss {mean_loss:.3f}, {self.seconds:.0f} s")
                losses.clear()
            if self.step % checkpoint_every == 0 or self.step == steps:
                self.save()

    def take_step(self, batch: TextBatch) -> float:
        """Take one optimizer step and return its loss."""
        recipe = self.recipe
        rate = learning_rate_at(self.step, recipe["steps"], recipe["late_steps"], recipe["learning_rate"])
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.encoder.train()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, TRAINING, self.step))
        tokens = self.encoder(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        pooled = pool_tokens(tokens, thin_mask(batch.mask, generator))
        findings = [reading.findings for reading in batch.readings]
        targets = stack_targets(findings, [reading.unstated for reading in batch.readings])
        loss = heads_loss(self.heads(pooled), targets)
        self.networks.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return float(loss.detach())

    def finish(self, held_out: int) -> dict[str, Any]:
        """Write the encoder's folder and return what its pretraining.json holds."""
        # The figures are those of the weights as they are saved, in half precision.
        self.encoder.half().float().eval()
        figures = evaluate_encoder(self.encoder, self.heads, self.tokenizer, seed=self.seed, count=held_out)
        summary = {
            "objective": "linear heads on the mean of the output tokens predict the findings of phantom reports",
            "recipe": self.recipe,
            "parameters": sum(parameter.numel() for parameter in self.encoder.parameters()),
            "held_out_reports": held_out,
            "figures": {name: round(value, 4) for name, value in figures.items()},
            "seconds": round(self.seconds, 1),
            "threads": torch.get_num_threads(),
        }
        save_tokenizer(self.tokenizer, self.folder, self.shape.window)
        save_encoder(self.encoder, self.folder)
        write_json(self.folder / "pretraining.json", summary)
        self.log(f"text encoder: {summary['figures']}")
        return summary

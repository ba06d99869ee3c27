"""Pretraining of the small T5 text encoder on phantom reports.

The encoder learns to state the findings of a report through linear heads on the mean of its output tokens. The mean is
deliberate: a perceiver that reads the text attends to all tokens alike when its training begins, so what the mean tells
linearly is within the denoiser's reach from the first step. The heads are thrown away; the encoder is then frozen.
"""

import copy
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..imaging.atomic import write_json
from ..imaging.errors import InputError
from ..zoo.card import Card
from ..zoo.family import load_family
from .config import LoopTraining
from .export import check_companions, describe_run, export_text_encoder
from .loop import refuse_existing, run_folder, saved_constants, train
from .optimizers import MuonAdamW
from .processes import compute_once, is_first_process
from .randomness import NETWORK, derive_seed, scoped_seed
from .splits import digest_words
from .task import Batch, Log, Progress, no_log
from .text_batches import (
    HELD_OUT_START,
    INSTITUTION,
    Encoded,
    Reading,
    TextStream,
    count_texts,
    draw_report,
    encode_readings,
    pad_tokens,
)
from .text_networks import EncoderShape, build_encoder, pool_tokens, save_encoder, thin_mask
from .text_options import TextEncoderTraining
from .text_targets import FindingHeads, heads_figures, heads_loss, stack_targets
from .text_tokenizer import save_tokenizer, train_tokenizer

STAGE = "text_encoder"
OBJECTIVE = "linear heads on the mean of the output tokens predict the findings of phantom reports"
_TIED, _SHARED = "encoder.encoder.embed_tokens.weight", "encoder.shared.weight"
_EVALUATED_AT_ONCE = 64


class TextObjective(nn.Module):
    """The encoder, the heads and their loss."""

    def __init__(self, shape: EncoderShape, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(shape, seed)
        with scoped_seed(derive_seed(seed, NETWORK, 1)):
            self.heads = FindingHeads(shape.width)
        # T5 lists its embedding twice, and safetensors stores no tensor twice.
        self.register_state_dict_post_hook(_leave_out_tied)
        self.register_load_state_dict_pre_hook(_put_back_tied)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The heads' loss of texts `ids` [B, L] with `mask` [B, L], read off the tokens that are `kept` [B, L]."""
        tokens = self.encoder(input_ids=batch["ids"], attention_mask=batch["mask"].long()).last_hidden_state
        outputs = self.heads(pool_tokens(tokens, batch["kept"]))
        targets = {name.removeprefix("target/"): value for name, value in batch.items() if name.startswith("target/")}
        return heads_loss({name: value.float() for name, value in outputs.items()}, targets), {}


class TextEncoderTask:
    """A text encoder, its texts and its loss, for `loop.train`; see `task.Task`.

    Args:
        card: The template of the model folder.
        options: Of the training.
        constants: The tokenizer, as `constants()` gives it; trained when None.
    """

    def __init__(self, card: Card, options: TextEncoderTraining, constants: Mapping[str, Any] | None = None) -> None:
        self.card, self.options = card, options
        self.objective: nn.Module = TextObjective(options.shape, options.seed)
        self.ids: Sequence[str] = [
            f"text {number}" for number in range(count_texts(options.last_step, options.batch_size))
        ]
        first = [draw_report(options.seed, number).text for number in range(8)]
        self.identity: Mapping[str, str] = {"data": digest_words(first)}
        self.restore(constants or make_tokenizer(options))

    def indices(self, step: int) -> list[int]:
        """The texts of a step, of like length."""
        return self._stream.indices(step)

    def optimizer(self, objective: nn.Module, options: LoopTraining) -> torch.optim.Optimizer:
        """Muon and AdamW."""
        return MuonAdamW(objective, options)

    def draw(self, index: int, generator: torch.Generator) -> Batch:
        """One text: its tokens, those whose mean is read, and what it states."""
        tokens, reading = self._stream[index]
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        targets = stack_targets([reading.findings], [reading.unstated])
        named = {f"target/{name}": value[0] for name, value in targets.items()}
        return {"ids": torch.tensor(tokens), "kept": thin_mask(mask, generator)[0], **named}

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Texts padded to the longest, with their masks; targets stacked."""
        ids, mask = pad_tokens([item["ids"].tolist() for item in items])
        kept = torch.zeros_like(mask)
        for row, item in zip(kept, items, strict=True):
            row[: len(item["kept"])] = item["kept"]
        targets = [name for name in items[0] if name.startswith("target/")]
        return {"ids": ids, "mask": mask, "kept": kept} | {
            name: torch.stack([item[name] for item in items]) for name in targets
        }

    def validate(self, device: torch.device) -> dict[str, float]:
        """The heads' figures on held-out reports, with the encoder's weights as they are stored."""
        assert isinstance(self.objective, TextObjective)
        stored = copy.deepcopy(self.objective.encoder).to(getattr(torch, self.options.weights_dtype)).float()
        numbers = range(HELD_OUT_START, HELD_OUT_START + self.options.validation_items)
        reports = [draw_report(self.options.seed, number) for number in numbers]
        return evaluate_encoder(stored, self.objective.heads, encode_readings(self.tokenizer, reports), device)

    def score(self, figures: Mapping[str, float]) -> float:
        """The mean figure of the heads."""
        return sum(figures.values()) / len(figures)

    def constants(self) -> dict[str, Any]:
        """The tokenizer."""
        return {"tokenizer": self.tokenizer.to_str()}

    def restore(self, constants: Mapping[str, Any]) -> None:
        """Takes over the tokenizer."""
        from tokenizers import Tokenizer

        options = self.options
        self.tokenizer = Tokenizer.from_str(constants["tokenizer"])
        self._stream = TextStream(self.tokenizer, options.seed, options.batch_size, options.steps)

    def export(self, folder: Path, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the encoder and its tokenizer into the model folder, as transformers loads them offline."""
        options = self.options
        encoder = build_encoder(options.shape, options.seed)
        weights = {name.removeprefix("encoder."): value for name, value in state.items()}
        for name, parameter in encoder.named_parameters():
            parameter.data = weights[name]
        figures = {name: round(value, 4) for name, value in progress.scalars.items()}
        facts = {
            "objective": OBJECTIVE,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "held_out_reports": options.validation_items,
            "figures": figures,
        }
        data = {
            "texts": "reports of phantom exams",
            "institutions": [INSTITUTION],
            "seed": options.seed,
            "count": progress.step * options.batch_size,
            "digest": self.identity["data"],
        }
        described = facts | describe_run(self.card, STAGE, options, progress, data)
        with tempfile.TemporaryDirectory(dir=run_folder(folder, STAGE), prefix=".encoder-") as scratch:
            made = Path(scratch)
            save_tokenizer(self.tokenizer, made, options.window)
            save_encoder(encoder, made, options.weights_dtype)
            write_json(made / "pretraining.json", described)
            updates = {
                "provenance": {STAGE: described},
                "parts": {STAGE: {"config": {"window": options.window}}},
            }
            export_text_encoder(folder, self.card, made, updates=updates)


def make_tokenizer(options: TextEncoderTraining) -> dict[str, Any]:
    """A tokenizer of the reports, as a task's constants."""
    numbers = range(options.tokenizer_reports)
    reports = (draw_report(options.seed, number).text for number in numbers)
    return {"tokenizer": train_tokenizer(reports, options.vocabulary).to_str()}


@torch.no_grad()
def evaluate_encoder(
    encoder: nn.Module, heads: FindingHeads, texts: Sequence[Encoded], device: torch.device
) -> dict[str, float]:
    """Figures of the heads on texts, from the plain mean over all tokens."""
    outputs: list[dict[str, Tensor]] = []
    readings: list[Reading] = []
    for start in range(0, len(texts), _EVALUATED_AT_ONCE):
        part = texts[start : start + _EVALUATED_AT_ONCE]
        ids, mask = (value.to(device) for value in pad_tokens([tokens for tokens, _ in part]))
        tokens = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        outputs.append({name: value.float().cpu() for name, value in heads(pool_tokens(tokens, mask)).items()})
        readings += [reading for _, reading in part]
    joined = {name: torch.cat([part[name] for part in outputs]) for name in outputs[0]}
    return heads_figures(joined, stack_targets([reading.findings for reading in readings]))


def train_text_encoder(
    card: Card, out: Path, options: TextEncoderTraining, *, resume: bool = False, log: Log = no_log,
    allow: Collection[str] = (),
) -> Progress:  # fmt: skip
    """Pretrains the text encoder of a model.

    Args:
        card: The template; its denoiser says how many features per token it reads.
        out: The model folder; the run's files lie in its `training/text_encoder`.
        options: Every option; see `config.resolve_options`.
        resume: Go on from the newest checkpoint.
        log: Takes lines for people.
        allow: What may differ from the run that is resumed; see `loop.train`.

    Returns:
        How the run ended; `scalars` holds the heads' figures on held-out reports.

    Raises:
        InputError: An option does not go with this part or this model; otherwise see `loop.train`.
        CardError: The model has no text encoder.
        TrainingDivergedError, TrainingInterrupted: See `loop.train`.
    """
    log = log if is_first_process() else no_log
    refuse_existing(out, STAGE, resume)
    check_text_training(card, options)
    check_companions(card, STAGE, out, log)
    constants = saved_constants(out, STAGE) or compute_once(options, lambda: make_tokenizer(options))
    task = TextEncoderTask(card, options, constants)
    return train(task, options, out, stage=STAGE, resume=resume, log=log, allow=allow)


def check_text_training(card: Card, options: TextEncoderTraining) -> None:
    """Refuses options that do not go with this part or this model: InputError, or CardError without such a part."""
    card.part(STAGE)
    if options.initial != "scratch":
        raise InputError("A text encoder is pretrained from random weights only.", "Leave out --finetune.")
    if options.epochs:
        raise InputError("Option epochs is set, and there is no end of phantom reports.", "Give steps.")
    wanted = load_family(card.family).text_width(card)
    if options.width != wanted:
        raise InputError(
            f"Option width is {options.width}, and the denoiser of model {card.id} reads {wanted} features per token.",
            f"Add --set width={wanted}, or name another --model.",
        )


def _leave_out_tied(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state.pop(prefix + _TIED, None)


def _put_back_tied(module: nn.Module, state: dict[str, Any], prefix: str, *details: Any) -> None:
    if prefix + _SHARED in state:
        state.setdefault(prefix + _TIED, state[prefix + _SHARED])

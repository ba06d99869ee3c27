"""The text encoder's pretraining: texts and targets agree, the saved folder loads anywhere, a resumed run is exact."""

import copy
import json
import os
import signal
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_denoiser import small_card

from ccella.imaging.errors import InputError
from ccella.imaging.phantom.findings import draw_findings
from ccella.imaging.phantom.lesion import SIDES
from ccella.training.checkpoints import latest_checkpoint
from ccella.training.config import resolve_options
from ccella.training.interruption import TrainingInterrupted
from ccella.training.loop import run_folder
from ccella.training.rates import learning_rate
from ccella.training.text_batches import (
    HELD_OUT_START,
    TextStream,
    draw_brief,
    draw_reading,
    draw_report,
    pad_tokens,
)
from ccella.training.text_encoder import train_text_encoder
from ccella.training.text_networks import pool_tokens, thin_mask
from ccella.training.text_options import TextEncoderTraining
from ccella.training.text_targets import HEADS, REGIONS, findings_targets, heads_figures, heads_loss, stack_targets
from ccella.training.text_tokenizer import train_tokenizer
from ccella.zoo.card import Card, parse_card, read_card

TINY = {"width": 32, "head_width": 16, "heads": 2, "hidden": 48, "layers": 1, "vocabulary": 600, "window": 40,
        "steps": 6, "batch_size": 4, "seed": 3, "learning_rate": 1e-3, "warmup_steps": 1, "tokenizer_reports": 40,
        "validation_items": 40, "device": "cpu", "log_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A model whose denoiser reads 32 features per token."""
    template = small_card(tmp_path_factory.mktemp("card"))
    document = copy.deepcopy(dict(template.document))
    document["parts"]["denoiser"]["config"]["adapter"]["text_width"] = 32
    return parse_card(document, template.directory / "card.toml")


def options(**changes) -> TextEncoderTraining:
    return resolve_options(TextEncoderTraining, "text_encoder", {}, TINY | changes)


def pretrain(card: Card, out: Path, *, resume: bool = False, allow=(), log=lambda line: None, **changes):
    return train_text_encoder(card, out, options(**changes), resume=resume, allow=allow, log=log)


@pytest.fixture(scope="module")
def trained(card, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder")
    return out, pretrain(card, out)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((draw_report(0, index).text for index in range(60)), 700)


def test_saved_folder_loads_with_transformers_alone(trained):
    from transformers import AutoTokenizer, T5EncoderModel

    out, progress = trained
    folder = out / "text_encoder"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "pretraining.json",
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder, info = T5EncoderModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    encoding = tokenizer("PI-RADS 4 lesion", return_tensors="pt")
    assert encoding["input_ids"][0, -1] == encoder.config.eos_token_id == tokenizer.eos_token_id
    assert encoder(**encoding).last_hidden_state.shape[-1] == 32
    assert progress.step == 6


def test_the_card_tells_of_texts_and_hardware(trained):
    out, progress = trained
    card = read_card(out / "card.toml")
    told = card.provenance["text_encoder"]
    assert told == json.loads((out / "text_encoder" / "pretraining.json").read_text(encoding="utf-8"))
    assert told["data"] | {"digest": ""} == {
        "texts": "reports of phantom exams", "institutions": [1], "seed": 3, "count": 24, "digest": "",
    }  # fmt: skip
    assert told["hardware"] == progress.hardware != ""
    assert told["options"]["learning_rate"] == 1e-3
    assert told["figures"] == {name: round(value, 4) for name, value in progress.scalars.items()}
    assert card.part("text_encoder").config["window"] == 40


def test_long_text_is_cut_on_the_left(trained):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "text_encoder", local_files_only=True)
    whole = tokenizer("apex " * 30 + "left base")["input_ids"]
    cut = tokenizer("apex " * 60 + "left base", truncation=True)["input_ids"]
    assert len(cut) == tokenizer.model_max_length == 40
    assert cut == whole[-40:] or cut[-5:] == whole[-5:]


def stop_after(step: int):
    def stop(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def test_an_interrupted_run_is_saved_and_resumes_to_the_same_bytes(card, trained, tmp_path):
    with pytest.raises(TrainingInterrupted, match="SIGTERM after step 3"):
        pretrain(card, tmp_path, log=stop_after(3))
    saved = latest_checkpoint(run_folder(tmp_path, "text_encoder") / "checkpoints")
    assert saved is not None and saved.step == 3
    with pytest.raises(InputError, match="already holds a run of 3 steps"):
        pretrain(card, tmp_path)
    with pytest.raises(InputError, match=r"learning_rate = 0\.001, this one 0\.01"):
        pretrain(card, tmp_path, resume=True, learning_rate=1e-2)
    pretrain(card, tmp_path, resume=True)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "text_encoder" / name).read_bytes() == (trained[0] / "text_encoder" / name).read_bytes()


def test_training_learns(card, tmp_path):
    progress = pretrain(card, tmp_path, steps=80, batch_size=12, learning_rate=5e-3, warmup_steps=8)
    assert progress.scalars["lesion_auc"] > 0.75


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"initial": "card"}, "from random weights only"),
        ({"epochs": 1.0}, "no end of phantom reports"),
        ({"width": 16}, "reads 32 features per token"),
    ],
)
def test_options_that_do_not_go_with_this_part(card, tmp_path, changes, words):
    chosen = {name: value for name, value in TINY.items() if name != "steps" or "epochs" not in changes}
    wrong = resolve_options(TextEncoderTraining, "text_encoder", {}, chosen | changes)
    with pytest.raises(InputError, match=words):
        train_text_encoder(card, tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()


def test_one_institution_has_all_that_reports_say():
    for index in range(60):
        one, two = (draw_findings(np.random.default_rng(index), institution, 0.6) for institution in (1, 2))
        assert replace(two, institution=1) == one
    drawn = [draw_reading(0, index, late=late) for index in range(48) for late in (False, True)]
    assert {reading.findings.institution for reading in drawn} == {1}
    # Sizes come in both units, as in the reports of the other institution.
    texts = [draw_report(0, index).text for index in range(40)]
    assert all(any(f" {unit}" in text for text in texts) for unit in ("mm", "cm"))


def test_any_text_is_encodable(tokenizer):
    for text in ("", "日本語 ⚕ — naïve", "PZpl\tleft\r\n", "12345 µm²", "\x00\x7f"):
        encoding = tokenizer.encode(text)
        assert tokenizer.token_to_id("<unk>") not in encoding.ids
        assert encoding.tokens[-1] == "</s>"


def test_headings_and_line_starts_share_tokens_with_prose(tokenizer):
    heading = tokenizer.encode("FINDINGS:\nBladder").tokens
    assert heading == tokenizer.encode("findings: \n\n bladder").tokens
    assert tokenizer.encode("the bladder").tokens[-2] == heading[-2]


def test_vocabulary_without_room_is_refused():
    with pytest.raises(ValueError, match="vocabulary of 100"):
        train_tokenizer(["text"], 100)


def test_targets_restate_the_findings():
    for index in range(200):
        findings = draw_findings(np.random.default_rng([1, index]), prevalence=0.6)
        targets = findings_targets(findings)
        assert {head.name: head.width for head in HEADS if head.kind != "class"}["regions"] == 12
        assert sum(targets["regions"]) == len(findings.lesions) == targets["count"][0]
        if findings.lesions:
            first = findings.lesions[0]
            assert targets["regions"][REGIONS.index((first.zone, first.side, first.level))] == 1
            assert targets["diameter"][0] * 5 + 14 == pytest.approx(first.diameter_mm)
            assert targets["pirads"][0] + 3 == first.pirads
        else:
            assert targets["side"] == [-100] and isnan(targets["diameter"][0])
        assert np.exp(targets["volume"][0] * 0.5) * 57 == pytest.approx(findings.volume_ml)


def test_brief_texts_leave_out_only_what_they_say_they_do():
    briefs = [draw_brief(0, index) for index in range(200)]
    assert np.mean([len(reading.text.split()) for reading in briefs]) < 60
    for reading in briefs:
        low = reading.text.lower()
        assert ("bladder" in low) == ("bladder" not in reading.unstated)
        volume = f"{reading.findings.volume_ml} ml" in low or f"{reading.findings.volume_ml} cc" in low
        assert volume == ("volume" not in reading.unstated)
        for lesion in reading.findings.lesions:
            assert lesion.side in low
            assert f"{lesion.diameter_mm:.0f}" in low or f"{lesion.diameter_mm / 10:.1f}" in low


def test_unstated_facts_cost_nothing():
    findings = draw_findings(np.random.default_rng(0), prevalence=0.0)
    targets = stack_targets([findings, findings], [{"bph", "volume"}, ()])
    assert targets["bph"][0] == -100 and targets["bph"][1] >= 0
    assert targets["volume"][0].isnan() and not targets["volume"][1].isnan()
    outputs = {head.name: torch.zeros(2, head.width, requires_grad=True) for head in HEADS}
    heads_loss(outputs, targets).backward()
    assert outputs["bph"].grad[0].abs().sum() == 0 and outputs["bph"].grad[1].abs().sum() > 0
    assert outputs["volume"].grad[0].abs().sum() == 0
    assert outputs["side"].grad is None  # no lesion, no index lesion


def test_perfect_outputs_reach_perfect_figures():
    batch = [draw_report(0, index).findings for index in range(120)]
    targets = stack_targets(batch)
    outputs = {}
    for head in HEADS:
        target = targets[head.name]
        if head.kind == "class":
            outputs[head.name] = torch.nn.functional.one_hot(target.clamp(min=0), head.width).float()
        else:
            outputs[head.name] = target
    figures = heads_figures(outputs, targets)
    assert set(figures.values()) == {1.0}
    assert {"lesion_auc", "side_accuracy", "zone_accuracy", "diameter_r2"} <= set(figures)


def test_batches_depend_on_the_step_alone(tokenizer):
    stream = TextStream(tokenizer, 0, 3, 32)
    batches = [[stream[index] for index in stream.indices(step)] for step in range(20)]
    again = TextStream(tokenizer, 0, 3, 32)
    assert [again[index] for index in again.indices(18)] == batches[18]
    assert [again[index] for index in again.indices(2)] == batches[2]
    texts = [reading.text for batch in batches[:16] for _, reading in batch]
    assert sorted(texts) == sorted(draw_reading(0, index, late=False).text for index in range(48))
    padded = [pad_tokens([tokens for tokens, _ in batch]) for batch in batches]
    assert all((ids[~mask] == 0).all() for ids, mask in padded)
    # Texts of a batch are of like length: little of it is padding.
    assert np.mean([mask.float().mean().item() for _, mask in padded]) > 0.75


def test_streams_differ_by_seed_and_part():
    assert draw_report(0, 1) != draw_report(1, 1)
    assert draw_report(0, 1).text != draw_report(0, HELD_OUT_START + 1).text


def test_pooling_ignores_padding():
    tokens = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [99.0], [99.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert pool_tokens(tokens, mask).tolist() == [[2.0], [5.0]]
    thinned = thin_mask(mask.repeat(200, 1), torch.Generator().manual_seed(0))
    assert thinned.any(1).all() and not (thinned & ~mask.repeat(200, 1)).any()
    assert thinned.sum() < mask.repeat(200, 1).sum()


def test_rate_rises_and_falls_once_per_phase():
    chosen = options(steps=2000, late_steps=1000, learning_rate=3.0, warmup_steps=100)
    rates = [learning_rate(chosen, step) for step in range(3000)]
    assert rates[0] == pytest.approx(0.03) and max(rates) == pytest.approx(3.0) and rates.index(max(rates)) in (99, 100)
    assert rates[1999] < 1e-4 and rates[2999] < 1e-4
    assert max(rates[2000:]) == pytest.approx(2.0) and min(rates) > 0


def test_a_finished_run_changes_nothing_and_goes_on_with_the_late_phase(card, tmp_path):
    def files():
        paths = [tmp_path / "run/card.toml", *(tmp_path / "run/text_encoder").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    out = tmp_path / "run"
    pretrain(card, out)
    short = files()
    pretrain(card, out, resume=True)
    assert files() == short
    pretrain(card, out, resume=True, late_steps=3, allow=("options",))
    pretrain(card, tmp_path / "unbroken", late_steps=3)
    longer = (tmp_path / "unbroken" / "text_encoder" / "model.safetensors").read_bytes()
    assert files()["model.safetensors"] == longer != short["model.safetensors"]


def test_late_texts_name_more_than_one_place():
    late = [draw_reading(0, index, late=True).findings for index in range(600) if index // 4 % 3]
    confusing = [len(f.lesions) > 1 or f.prostatitis in SIDES or f.haemorrhage in SIDES for f in late]
    assert np.mean(confusing) > 0.9

"""The text encoder's pretraining: texts and targets agree, the saved folder loads anywhere, a resumed run is exact."""

import json
from math import isnan

import numpy as np
import pytest
import torch

from ccella.imaging.errors import InputError
from ccella.imaging.phantom.findings import draw_findings
from ccella.imaging.phantom.lesion import SIDES
from ccella.training.text_batches import HELD_OUT_START, draw_brief, draw_reading, draw_report, iterate_batches
from ccella.training.text_encoder import learning_rate_at, pretrain_text_encoder
from ccella.training.text_networks import EncoderShape, pool_tokens, thin_mask
from ccella.training.text_targets import HEADS, REGIONS, findings_targets, heads_figures, heads_loss, stack_targets
from ccella.training.text_tokenizer import train_tokenizer

TINY = EncoderShape(width=32, head_width=16, heads=2, hidden=48, layers=1, vocabulary=600, window=40)


def pretrain(out, **options):
    settings = {
        "steps": 6,
        "batch_size": 4,
        "seed": 3,
        "learning_rate": 1e-3,
        "log": lambda line: None,
        "checkpoint_every": 100,
        "shape": TINY,
        "tokenizer_reports": 40,
        "held_out": 40,
    }
    return pretrain_text_encoder(out, **{**settings, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder")
    return out, pretrain(out)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((draw_report(0, index).text for index in range(60)), 700)


def test_saved_folder_loads_with_transformers_alone(trained):
    from transformers import AutoTokenizer, T5EncoderModel

    out, summary = trained
    folder = out / "text_encoder"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "pretraining.json"} <= names
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder, info = T5EncoderModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    encoding = tokenizer("PI-RADS 4 lesion", return_tensors="pt")
    assert encoding["input_ids"][0, -1] == encoder.config.eos_token_id == tokenizer.eos_token_id
    assert encoder(**encoding).last_hidden_state.shape[-1] == 32
    assert json.loads((folder / "pretraining.json").read_text(encoding="utf-8")) == summary
    assert summary["parameters"] == sum(parameter.numel() for parameter in encoder.parameters())


def test_long_text_is_cut_on_the_left(trained):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "text_encoder", local_files_only=True)
    whole = tokenizer("apex " * 30 + "left base")["input_ids"]
    cut = tokenizer("apex " * 60 + "left base", truncation=True)["input_ids"]
    assert len(cut) == tokenizer.model_max_length == 40
    assert cut == whole[-40:] or cut[-5:] == whole[-5:]


def test_a_resumed_run_equals_an_unbroken_one(trained, tmp_path):
    class Killed(Exception):
        pass

    def stop(line):
        raise Killed

    # Step 50 is the first to log; 3 of 6 steps are behind the checkpoint when the last step logs.
    with pytest.raises(Killed):
        pretrain(tmp_path, checkpoint_every=3, log=stop)
    with pytest.raises(InputError, match="already holds a run of 3 steps"):
        pretrain(tmp_path)
    with pytest.raises(InputError, match=r"learning_rate = 0\.001, not 0\.01"):
        pretrain(tmp_path, resume=True, learning_rate=1e-2)
    pretrain(tmp_path, resume=True)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "text_encoder" / name).read_bytes() == (trained[0] / "text_encoder" / name).read_bytes()


def test_training_learns(tmp_path):
    summary = pretrain(tmp_path, steps=80, batch_size=12, learning_rate=5e-3)
    assert summary["figures"]["lesion_auc"] > 0.75


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
    stream = iterate_batches(tokenizer, 0, 3, 0, 32)
    batches = [next(stream) for _ in range(20)]
    again = next(iterate_batches(tokenizer, 0, 3, 18, 32))
    assert torch.equal(again.ids, batches[18].ids) and again.readings == batches[18].readings
    texts = [reading.text for batch in batches[:16] for reading in batch.readings]
    assert sorted(texts) == sorted(draw_reading(0, index, late=False).text for index in range(48))
    assert all((batch.ids[~batch.mask] == 0).all() for batch in batches)
    # Texts of a batch are of like length: little of it is padding.
    assert np.mean([batch.mask.float().mean().item() for batch in batches]) > 0.75


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
    rates = [learning_rate_at(step, 2000, 1000, 3.0) for step in range(3000)]
    assert rates[0] == pytest.approx(0.03) and max(rates) == pytest.approx(3.0) and rates.index(max(rates)) in (99, 100)
    assert rates[1999] < 1e-4 and rates[2999] < 1e-4
    assert max(rates[2000:]) == pytest.approx(2.0) and min(rates) > 0


def test_a_finished_run_goes_on_with_the_late_phase(tmp_path):
    short = pretrain(tmp_path)
    first = (tmp_path / "text_encoder" / "model.safetensors").read_bytes()
    assert pretrain(tmp_path, resume=True)["figures"] == short["figures"]
    assert (tmp_path / "text_encoder" / "model.safetensors").read_bytes() == first
    pretrain(tmp_path, resume=True, late_steps=3)
    pretrain(tmp_path / "unbroken", late_steps=3)
    longer = (tmp_path / "text_encoder" / "model.safetensors").read_bytes()
    assert longer == (tmp_path / "unbroken" / "text_encoder" / "model.safetensors").read_bytes() != first


def test_late_texts_name_more_than_one_place():
    late = [draw_reading(0, index, late=True).findings for index in range(600) if index // 4 % 3]
    confusing = [len(f.lesions) > 1 or f.prostatitis in SIDES or f.haemorrhage in SIDES for f in late]
    assert np.mean(confusing) > 0.9

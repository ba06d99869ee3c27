"""As many items at a time as fit into a memory, and what that leaves as it was."""

import json
from dataclasses import replace

import pytest
import torch

from ccella.cli.main import run
from ccella.imaging.errors import InputError
from ccella.pipeline import batching
from ccella.pipeline.batching import MOST_ITEMS, estimate_batches, fit_batch_size
from ccella.pipeline.footprint import RESERVED, estimate_sampling
from ccella.pipeline.sampler_settings import choose_settings


def fit(stages, memory_bytes, n_items=100, **changes):
    settings = replace(choose_settings(stages.card), memory_bytes=memory_bytes)
    runtime = replace(stages.runtime, **changes)
    return fit_batch_size(stages.card, settings, runtime, n_items=n_items, tokens=24)


def test_the_largest_batch_that_fits_is_taken(stages):
    settings = choose_settings(stages.card)
    needed = estimate_batches(stages.card, settings, stages.runtime, 24).needed
    # What five items need, counted for five: the two that were counted tell it.
    five = estimate_sampling(stages.card, replace(settings, batch_size=5), torch.float32, 24)
    assert max(five.values()) * RESERVED["cpu"] == pytest.approx(needed(5), rel=0.02)
    for memory, expected in ((needed(1), 1), (needed(5), 5), (needed(6) - 1, 5), (2**50, MOST_ITEMS)):
        fitted, sentence = fit(stages, memory)
        assert (fitted.batch_size, fitted.memory_bytes) == (expected, memory)
        assert sentence.startswith(f"Batch size {expected}: about ") and "--memory" in sentence
    assert fit(stages, 2**50, n_items=3)[0].batch_size == 3
    with pytest.raises(InputError, match=r"does not suffice to denoise one item of tiny/random") as caught:
        fit(stages, needed(1) - 1)
    assert f"Give --memory {-(-needed(1) // 2**20)}MB or more" in caught.value.remedy


def test_without_a_given_memory_nine_tenths_of_what_is_free_are_used(stages, monkeypatch):
    needed = estimate_batches(stages.card, choose_settings(stages.card), stages.runtime, 24).needed
    monkeypatch.setattr(batching, "free_bytes", lambda device: round(needed(4) / 0.9) + 8)
    assert fit(stages, None)[0].batch_size == 4
    # A full machine is met by the first item, not refused beforehand.
    monkeypatch.setattr(batching, "free_bytes", lambda device: 0)
    assert fit(stages, None)[0].batch_size == 1
    monkeypatch.undo()
    assert batching.free_bytes(torch.device("cpu")) > 2**20
    assert batching.free_bytes(torch.device("mps")) is None
    with pytest.raises(InputError, match="mps is free is not known"):
        fit(stages, None, device=torch.device("mps"))
    with pytest.raises(InputError, match="runtime onnx is not known"):
        fit(stages, 2**30, name="onnx")


def test_the_command_line_says_and_records_the_batch_and_resumes_with_another(
    tiny_model, prompts, five, tmp_path, largest_difference, capsys
):
    manifest = tmp_path / "prompts.jsonl"
    lines = [{"id": i.id, "prompt": i.text, "class": i.class_label, "spacing": i.spacing_mm} for i in prompts]
    rows = [{key: value for key, value in line.items() if value is not None} for line in lines]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [
        "sample",
        "--prompt",
        str(manifest),
        "--model",
        str(tiny_model),
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "o"),
    ]
    assert run([*words, "--batch-size", "auto", "--memory", "1GB"]) == 0
    assert "Batch size 5: about 0.0" in capsys.readouterr().err
    assert largest_difference(tmp_path / "o", five) < 1e-5
    sidecar = tmp_path / "o/c/c_t2w.json"
    assert json.loads(sidecar.read_text(encoding="utf-8"))["batch_size"] == 5
    sidecar.unlink()
    assert run([*words, "-q", "--resume", "--batch-size", "2"]) == 0
    assert json.loads(sidecar.read_text(encoding="utf-8"))["batch_size"] == 2
    assert largest_difference(tmp_path / "o", five) < 1e-5
    for wrong in ("0", "-1", "some", "1.5"):
        assert run([*words, "--batch-size", wrong]) == 2
        assert "nor auto" in capsys.readouterr().err

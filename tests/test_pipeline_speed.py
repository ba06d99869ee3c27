"""The arithmetic of `ccella bench`: operations, rates and sums; nothing here depends on how fast a machine is."""

import json
import sys
import tomllib

import pytest
import torch
from torch.nn import functional

from ccella.cli.main import run
from ccella.pipeline.flops import count_attention, count_exam, count_flops
from ccella.pipeline.memory import read_peak, reset_peak
from ccella.pipeline.sampler_settings import choose_settings
from ccella.pipeline.speed import StageSpeed, add_stages, time_repeats
from ccella.zoo.family import load_family
from ccella.zoo.registry import find_card

CPU = torch.device("cpu")


def test_rates_and_shares_follow_from_seconds_and_operations():
    step = StageSpeed("step", 20, 0.25, 500_000_000, 3_000)
    assert step.flop_per_s == 2e9
    assert step.share(8e9) == 0.25
    assert step.entry(8e9) == {
        "stage": "step", "count": 20, "seconds": 0.25, "flop": 500_000_000, "peak_bytes": 3_000,
        "flop_per_s": 2e9, "share_of_matrix_rate": 0.25, "matrix_flop_per_s": 8e9,
    }  # fmt: skip
    write = StageSpeed("write", 1, 0.5, 0, None)
    assert (write.flop_per_s, write.share(8e9)) == (None, None)


def test_an_exam_is_every_stage_as_often_as_it_runs():
    stages = [StageSpeed("step", 20, 0.25, 500, 3_000), StageSpeed("write", 1, 0.5, 0, None)]
    assert add_stages(stages) == StageSpeed("exam", 1, 5.5, 10_000, 3_000)
    assert add_stages(stages[1:]).peak_bytes is None


def test_operations_of_known_layers():
    x = torch.zeros(2, 3, 8, 9, 10)
    # Every output voxel of every filter takes 3 * 27 multiply-adds.
    convolution = torch.nn.Conv3d(3, 5, 3, padding=1)
    assert count_flops(lambda: convolution(x)) == 2 * (2 * 5 * 8 * 9 * 10) * (3 * 27)
    assert count_flops(lambda: torch.zeros(4, 6) @ torch.zeros(6, 7)) == 2 * 4 * 6 * 7


def test_attention_counts_whatever_kernel_carries_it_out():
    q, k, v = torch.zeros(2, 4, 10, 16), torch.zeros(2, 4, 12, 16), torch.zeros(2, 4, 12, 16)
    expected = 2 * (2 * 4 * 10 * 12 * 16) * 2
    assert count_flops(lambda: functional.scaled_dot_product_attention(q, k, v)) == expected
    # A width of the values other than the keys' has no fused kernel.
    v = torch.zeros(2, 4, 12, 8)
    expected = 2 * (2 * 4 * 10 * 12) * (16 + 8)
    assert count_flops(lambda: functional.scaled_dot_product_attention(q, k, v)) == expected
    assert count_attention(q.shape, k.shape, v.shape) == expected


def test_published_sizes_need_the_published_operations():
    """1.05 TFLOP a step, 27.1 TFLOP a decoded sequence: known figures of the published model at 256x256x128."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    card = find_card("ccella-pp")
    with FakeTensorMode():
        denoiser, autoencoder = (load_family(card.family).build(card.part(p)) for p in ("denoiser", "autoencoder"))
        text = torch.zeros(200, load_family(card.family).text_width(card))
    counts = count_exam(card, choose_settings(card, steps=20), denoiser, autoencoder, text)
    assert round(counts["step"] / 1e12, 2) == 1.05
    assert round(counts["decode"] / 3e12, 1) == 27.1


def test_guidance_doubles_a_step_and_a_batch_changes_nothing_per_exam(stages):
    text = torch.zeros(5, 16)
    networks = (stages.denoiser, stages.autoencoder, text)
    one = count_exam(stages.card, choose_settings(stages.card, guidance_scale=1.0), *networks)
    guided = count_exam(stages.card, choose_settings(stages.card, guidance_scale=2.0), *networks)
    batch = count_exam(stages.card, choose_settings(stages.card, guidance_scale=1.0, batch_size=4), *networks)
    assert guided["step"] == 2 * one["step"]
    assert batch == one
    assert guided["decode"] == one["decode"]
    more = count_exam(stages.card, choose_settings(stages.card, guidance_scale=1.0, steps=6), *networks)
    assert more["adapter"] > 1.5 * one["adapter"]


def test_every_repeat_runs_after_one_that_warms_up():
    calls = []
    assert len(time_repeats(lambda: calls.append(1), CPU, 3)) == 3
    assert len(calls) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a stretch's peak")
def test_the_peak_is_that_of_the_stretch():
    reset_peak(CPU)
    before = read_peak(CPU)
    held = torch.ones(192 * 2**20, dtype=torch.uint8)
    held_peak = read_peak(CPU)
    assert before is not None and held_peak is not None
    assert held_peak - before > 128 * 2**20
    del held
    assert read_peak(CPU) > held_peak - 30 * 2**20
    reset_peak(CPU)
    assert read_peak(CPU) < held_peak - 30 * 2**20


def test_the_command_gives_every_stage_and_their_sum(tiny_model, capsys):
    assert run(["bench", str(tiny_model), "--steps", "2", "--batch-size", "2", "--repeats", "1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["stage"] for row in rows] == ["text encoding", "adapter", "step", "decode", "write", "exam"]
    assert [row["count"] for row in rows] == [1, 1, 2, 1, 1, 1]
    *parts, exam = rows
    assert exam["seconds"] == pytest.approx(sum(row["count"] * row["seconds"] for row in parts))
    assert exam["flop"] == sum(row["count"] * row["flop"] for row in parts)
    assert exam["model"] == "tiny/random"
    assert all(row["flop"] > 0 for row in parts if row["stage"] != "write")
    assert all(row["share_of_matrix_rate"] is None or row["share_of_matrix_rate"] > 0 for row in rows)


def test_a_model_without_weights_is_measured_when_asked(tiny_model, tmp_path, capsys):
    import tomli_w

    document = tomllib.loads((tiny_model / "card.toml").read_text(encoding="utf-8"))
    for part in document["parts"].values():
        part.pop("files")
    del document["latent"]["scale"]
    (tmp_path / "card.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    assert run(["bench", str(tmp_path), "--repeats", "1"]) == 3
    assert run(["bench", str(tmp_path), "--repeats", "1", "--random-weights", "-q"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["matrix product", "adapter", "step", "decode", "write", "exam"]


def test_on_a_gpu_other_runtimes_are_measured_by_the_whole_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * 2**30, 140 * 2**30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    device = torch.device("cuda:0")
    assert read_peak(device, whole_device=True) == 110 * 2**30
    assert read_peak(device) == 2**30

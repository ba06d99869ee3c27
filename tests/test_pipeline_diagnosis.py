"""The machine's findings, and memory counted from shapes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ccella.pipeline.footprint import count_peak, estimate_footprint
from ccella.pipeline.sampler_settings import choose_settings
from ccella.zoo.card import read_card
from ccella.zoo.loading import part_paths


def test_peak_of_a_chain_is_its_largest_neighbours():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(1000)  # known: not counted

        def chain():
            a = torch.cat([x, x])  # 8 kB
            b = torch.cat([a, a])  # 16 kB, 24 kB with a
            del a
            c = b[:10] + 1  # a view costs nothing; 40 B
            del b
            return torch.cat([c] * 300)  # 12 kB

        assert count_peak(chain, known=[x]) == 24_000


def test_a_model_larger_than_the_machine_costs_nothing_to_estimate(tiny_model):
    card = read_card(tiny_model / "card.toml")
    settings = choose_settings(card)
    footprint = estimate_footprint(card, settings, torch.float32)
    # The weights are those of the files, whose headers are small.
    for name, n_bytes in footprint.weights.items():
        stored = sum(path.stat().st_size for path in part_paths(card, name))
        assert n_bytes < stored < n_bytes + 40_000
    half = estimate_footprint(card, settings, torch.bfloat16)
    assert {name: 2 * n_bytes for name, n_bytes in half.weights.items()} == footprint.weights
    # Guidance doubles the batch of a step.
    single = estimate_footprint(card, choose_settings(card, guidance_scale=1.0), torch.float32)
    assert 1.7 < footprint.activations["step"] / single.activations["step"] < 2.3


@pytest.mark.parametrize("where", ["folder", "file"])
def test_doctor(tmp_path, tiny_model, where):
    home = tmp_path / "home"
    if where == "file":
        home.write_text("in the way", encoding="utf-8")
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ccella.cli.main", "doctor", "--json"]
    command += [str(tiny_model)] if where == "folder" else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found = {row["topic"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert found["torch"]["value"].startswith(torch.__version__)
    assert str(home) in found["cache"]["value"]
    assert ("can only be read" in found["cache"]["value"]) == (where == "file")
    assert found["hub"]["value"] == "offline, as HF_HUB_OFFLINE asks"
    if where == "folder":
        assert found["tiny/random: weights"]["value"] == "ready"
        assert found["tiny/random: fits"]["value"].startswith("yes: 0.0")

"""Runs that are cut short, killed or damaged, and go on."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ccella.imaging.errors import InputError
from ccella.pipeline.errors import ItemsFailedError, RunFolderError
from ccella.zoo.runs import read_run


def test_resume_completes_a_run_and_changes_nothing(stages, prompts, five, read_files, tmp_path):
    out = five
    stages.sample(prompts[:2], tmp_path / "o")
    (tmp_path / "o/b/b_hbv.nii.gz").unlink()
    seen = []
    records = stages.sample(
        prompts, tmp_path / "o", batch_size=1, run={"resume": True}, on_item=lambda i, e: seen.append((i, e))
    )
    assert read_files(tmp_path / "o") == read_files(out)
    assert len(records) == 15 and seen == [(item.id, None) for item in prompts]
    with pytest.raises(RunFolderError, match="prompt 'Lesion left"):
        stages.sample([replace(prompts[0], text="other")], tmp_path / "o", run={"resume": True})
    with pytest.raises(RunFolderError, match=r"has sampler\.steps = 3, but this one has 2"):
        stages.sample(prompts, tmp_path / "o", steps=2, run={"resume": True})


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import conftest
from support.stages import Stages
from ccella.imaging import atomic

stages, out, after = Stages(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
replace, count = os.replace, 0
def dying(source, target):
    # Dies with a whole temporary file that has not got its name yet.
    global count
    count += Path(target).name.endswith((".nii.gz", ".json")) and Path(target).name != "run.json"
    if count > after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
atomic.os.replace = dying
stages.sample(conftest.prompts._fixture_function(), out, batch_size=2)
"""


def test_kill_minus_nine_then_resume(stages, prompts, read_files, largest_difference, tiny_model, tmp_path):
    """Killed in the middle of its third item: no half file under a final name, and --resume gives the whole run."""
    reference = tmp_path / "whole"
    stages.sample(prompts, reference, batch_size=2)
    out = tmp_path / "o"
    command = [sys.executable, "-c", KILLED, str(tiny_model), str(out), "15", str(Path(__file__).parent)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert any(path.name.endswith(".part") for path in out.rglob("*"))
    whole = read_files(reference)
    survivors = {name: data for name, data in read_files(out).items() if not name.endswith(".part")}
    assert set(survivors) < set(whole)
    assert all(whole[name] == data for name, data in survivors.items() if name != "manifest.jsonl")
    # The manifest may lack the last line, and what it has is right.
    assert whole["manifest.jsonl"].startswith(survivors["manifest.jsonl"])
    with pytest.raises(RunFolderError, match="already holds a run"):
        stages.sample(prompts, out, batch_size=2)
    stages.sample(prompts, out, batch_size=2, run={"resume": True})
    resumed = read_files(out)
    assert set(resumed) == set(whole)
    # Batches fall differently after a resume, so agreement is to rounding.
    assert largest_difference(reference, out) < 1e-5
    assert [r.path.name for r in read_run(out)] == [r.path.name for r in read_run(reference)]


def test_a_cut_latent_fails_alone(stages, prompts, tmp_path):
    latents = stages.sample(prompts[:3], tmp_path / "l", latents_only=True)
    damaged = tmp_path / "l/b/b_latent.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(ItemsFailedError, match=r"1 of 3 items failed: b: .*not a whole safetensors file") as caught:
        stages.decode(tmp_path / "l", tmp_path / "v")
    assert [failure.id for failure in caught.value.failures] == ["b"]
    assert "--resume" in caught.value.remedy
    assert [r.id for r in read_run(tmp_path / "v")] == ["a"] * 3 + ["c"] * 3
    with pytest.raises(InputError, match=r"^b: "):
        stages.decode([latents[1]], tmp_path / "w")
    # The latent made again, the run can be completed; what is done is kept.
    stages.sample(prompts[:3], tmp_path / "l", latents_only=True, run={"resume": True})
    stages.decode(tmp_path / "l", tmp_path / "v", resume=True)
    assert [r.id for r in read_run(tmp_path / "v")] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3

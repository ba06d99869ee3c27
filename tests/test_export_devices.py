"""bf16: asked for where there are instructions for it, and where there are none."""

from pathlib import Path

import pytest
import torch
from support.small_task import run as train_small
from support.small_task import small_options

from ccella.cli.main import run
from ccella.export.devices import bf16_warning, computes_in_bf16
from ccella.training.export import describe_run
from ccella.zoo.card import read_card

CPU = torch.device("cpu")
CAPABILITIES = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(params=[{}, {"avx512_bf16": True}, {"amx_bf16": True}, {"architecture": "aarch64", "bf16": True}])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor that PyTorch reports has bf16 instructions."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CAPABILITIES | request.param, raising=False)
    return bool(request.param)


def test_a_processor_has_bf16_by_its_instructions(has_bf16: bool) -> None:
    assert computes_in_bf16(CPU) == has_bf16
    assert (bf16_warning(CPU) is None) == has_bf16


def test_a_training_in_auto_takes_the_format_of_the_device(has_bf16: bool, tiny_model: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    progress = train_small(tmp_path / "auto", steps=2, precision="auto", log=lines.append)
    chosen = "bf16" if has_bf16 else "fp32"
    # The run says what it came to, and is resumed with that.
    assert f'precision = "{chosen}"' in (tmp_path / "auto/training/small/config.toml").read_text(encoding="utf-8")
    assert f", {chosen}: " in next(line for line in lines if line.startswith("Training small"))
    assert not any("no bf16 instructions" in line for line in lines)
    told = describe_run(read_card(tiny_model / "card.toml"), "denoiser", small_options(precision="auto"), progress, {})
    assert told["options"]["precision"] == chosen
    train_small(tmp_path / "asked", steps=2, precision="bf16", log=lines.append)
    assert any("Device cpu has no bf16 instructions" in line for line in lines) != has_bf16


def test_sampling_in_bf16_says_what_it_costs(
    has_bf16: bool, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tmp_path / "report.txt"
    prompt.write_text("A lesion.", encoding="utf-8")
    arguments = ["sample", "--prompt", str(prompt), "--model", str(tiny_model), "--device", "cpu", "--steps", "2"]
    assert run([*arguments, "--precision", "bf16", "-o", str(tmp_path / "out")]) == 0
    assert ("Device cpu has no bf16 instructions" in capsys.readouterr().err) != has_bf16

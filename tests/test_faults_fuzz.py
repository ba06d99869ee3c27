"""A few hundred of the inputs that bench/fuzz.py makes by the thousand."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent))
from support.fuzz_cases import KINDS
from support.fuzzing import Sandbox, find_fault

EXAMPLES = {"prompts": 80, "ids": 30, "manifests": 100, "cards": 50, "volumes": 40, "options": 60}


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_breaks_the_rules(kind, tiny_model, tiny_exams, tmp_path, monkeypatch):
    for name in ("CCELLA_DEBUG", "CCELLA_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sandbox = Sandbox(tmp_path / "box", tiny_model, tiny_exams)

    @settings(
        max_examples=EXAMPLES[kind], derandomize=True, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(KINDS[kind]())
    def check(case):
        assert find_fault(sandbox.run(case)) is None

    check()

"""The pages of docs/reference/ say what the program says, and the records what they list."""

import importlib.util
from pathlib import Path

import pytest

from ccella.zoo.record_keys import RECORD_KEYS
from ccella.zoo.runs import read_run

ROOT = Path(__file__).parents[1]
REMEDY = "docs/reference/ is out of date: run `python bench/reference.py` and commit what it writes."


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "bench" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_program_makes(reference):
    pages = reference.make_pages()
    assert {path.name for path in reference.FOLDER.glob("*.md")} == set(pages), REMEDY
    for name, text in pages.items():
        assert (reference.FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: {REMEDY}"


def test_every_command_and_exit_code_is_there(reference):
    from ccella.cli import errors
    from ccella.cli.main import COMMANDS

    pages = reference.make_pages()
    assert all(f"## `ccella {name}`" in pages["commands.md"] for name in COMMANDS)
    codes = [errors.FAILED, errors.USAGE, errors.WEIGHTS_MISSING, errors.ACCESS, errors.DIGEST, errors.OUT_OF_MEMORY]
    for code in [0, *codes, errors.ITEMS_FAILED, errors.INTERRUPTED]:
        assert f"\n| {code} | " in pages["exit-codes.md"]


def test_records_have_the_keys_that_are_listed(stages, prompts, five, tiny_exams, tmp_path):
    """Each command's records hold exactly the keys that name it, of the kind that is stated."""
    from ccella.imaging.exams import find_exams

    latents = stages.sample(prompts, tmp_path / "latents", latents_only=True)
    encoded = stages.encode(find_exams(tiny_exams, ("t2w", "hbv", "adc")), tmp_path / "encoded")
    decoded = stages.decode(tmp_path / "latents", tmp_path / "decoded")
    found = {"sample": [*read_run(five), *latents], "encode": encoded, "decode": decoded}
    inherited = {"conditions", "class_probability", "seed", "sampler", "text_path", "meta", "affine"} | {
        "patient_id",
        "prompt_id",
    }
    for command, records in found.items():
        keys = {key for record in records for key in record.to_json()}
        listed = {name for name, key in RECORD_KEYS.items() if any(w.split()[0] == command for w in key.writers)}
        assert keys - listed <= (inherited if command == "decode" else set())
        assert listed <= keys

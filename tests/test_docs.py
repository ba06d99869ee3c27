"""The guides: links lead somewhere, commands and options that are shown exist, and the Python example runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ccella.cli.main import ccella

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def find_command(words):
    """The command that these words call, and the words after its name."""
    command = ccella
    while words and isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            break
        command, words = inner, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(page):
    text = page.read_text(encoding="utf-8")
    lines = [line.split("#")[0] for line in text.splitlines() if re.match(r"    (\S+ )*\S*\bccella ", line)]
    for line in [*lines, *re.findall(r"`(ccella [^`]+)`", text)]:
        for call in re.split(r"[|;]", line):
            found = re.search(r"(?:^|[\s/])ccella ([a-z].*)", call)
            # `list | show` and `a|b` are ways to write several commands at once.
            if found is None or re.match(r"\S+ \S*\.\.\.", found[1]):
                continue
            command, rest = find_command(found[1].split())
            if command is ccella:
                continue
            options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
            shown = {word.split("=")[0].rstrip(".,") for word in rest if re.match(r"--?[a-z]", word)}
            assert isinstance(command, click.Group) or shown <= options | {"--help"}, f"{page.name}: {line.strip()}"


def test_the_python_example_runs(tiny_model, tmp_path):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    program = program.replace('"ccella-pp/phantom"', repr(str(tiny_model)))
    (tmp_path / "report.txt").write_text("A lesion on the left.", encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all((tmp_path / line.split()[-1]).is_file() for line in lines), done.stdout


def test_names_in_the_table_of_python_exist():
    import importlib

    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for module, name in re.findall(r"`(ccella(?:\.\w+)+)\.(\w+)[`(]", text):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"

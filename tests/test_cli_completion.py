"""Tab completion: what docs/models.md tells a user to put into the shell's start file, and what the shell then asks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
LINES = {
    "bash": 'eval "$(_CCELLA_COMPLETE=bash_source ccella)"',
    "zsh": 'eval "$(_CCELLA_COMPLETE=zsh_source ccella)"',
    "fish": "_CCELLA_COMPLETE=fish_source ccella | source",
}


def ask(shell, words, **changed):
    environment = {**os.environ, "PATH": PATH, "_CCELLA_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
    # fish says the word itself, the others its place.
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    done = subprocess.run(["ccella"], env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    return done.stdout


@pytest.mark.parametrize("shell", LINES)
def test_the_documented_line_is_one_that_the_program_answers(shell):
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    assert LINES[shell] in text
    command = {**os.environ, "PATH": PATH, "_CCELLA_COMPLETE": f"{shell}_source"}
    done = subprocess.run(["ccella"], env=command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert f"_CCELLA_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize("shell", LINES)
def test_the_shell_is_told_commands_and_options(shell):
    answer = ask(shell, ["ccella", "zoo", "un"])
    assert "unbundle" in answer and "pull" not in answer
    assert "--preset" in ask(shell, ["ccella", "sample", "--pre"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes():
    script = (
        LINES["bash"] + '; COMP_WORDS=(ccella sam); COMP_CWORD=1; _ccella_completion ccella; echo "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PATH": PATH}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sample"]

"""Writes requirements/*.lock: every version that Docker and CI install, with the SHA-256 of its files.

make lock

Versions are those of constraints.txt; what is not named there is pinned as it is found. torch and what it alone brings
(CUDA libraries) have a file of their own, as the public index serves them on Linux: another build of torch, such as one
for the CPU, has other digests. TensorRT is in no lock: its public packages fetch the real ones from NVIDIA.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
HEADER = "# Made by `make lock` from pyproject.toml and constraints.txt, for Python 3.11 on Linux.\n"
TOOLS = ("pip-tools>=7.6", "cyclonedx-bom>=7.5", "pip-audit>=2.10")
APART = re.compile(r"(torch|triton)$|(nvidia|cuda)-")
UNLOCKABLE = re.compile(r"tensorrt\b")


def read_sets() -> dict[str, list[str]]:
    """What each lock has to hold, as requirements without their own requirements."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    extras = project["optional-dependencies"]
    own = re.compile(r"ccella\[(.+)\]")

    def expand(extra: str) -> list[str]:
        found = []
        for requirement in extras[extra]:
            inner = own.match(requirement)
            found += [line for name in inner[1].split(",") for line in expand(name)] if inner else [requirement]
        return [line for line in found if not UNLOCKABLE.match(line)]

    base = project["dependencies"]
    return {
        "cpu": [*base, *expand("cpu")],
        "gpu": [*base, *expand("gpu")],
        "train": [*base, *expand("tensorboard")],
        "dev": [*base, *expand("dev")],
        "build": document["build-system"]["requires"],
        "tools": list(TOOLS),
    }


def split_blocks(text: str) -> dict[str, str]:
    """The entries of a lock, each with its hashes, by the package's name."""
    blocks: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            name = ""
        elif not line.startswith(" "):
            name = line.split("==")[0].strip()
        if name:
            blocks[name] = blocks.get(name, "") + line
    return blocks


def compile_lock(program: str, name: str, requirements: list[str]) -> dict[str, str]:
    """The entries that a set of requirements comes to, those of torch among them."""
    # Only the public index counts: a machine's own wheels have digests that nobody else can meet.
    dropped = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / f"{name}.in", Path(scratch) / f"{name}.lock"
        source.write_text("\n".join(requirements), encoding="utf-8")
        # Digests that are known already are not fetched again.
        known = [
            path.read_text(encoding="utf-8")
            for path in (FOLDER / f"{name}.lock", FOLDER / "torch.lock")
            if path.exists()
        ]
        target.write_text("\n".join(known), encoding="utf-8")
        words = (
            "--quiet --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url "
            "--no-emit-find-links"
        )
        constraints = str(ROOT / "constraints.txt")
        subprocess.run(
            [program, *words.split(), "-c", constraints, "-o", str(target), str(source)],
            env=environment | {"PIP_CONFIG_FILE": os.devnull}, check=True,
        )  # fmt: skip
        return split_blocks(target.read_text(encoding="utf-8"))


def write_lock(name: str, blocks: dict[str, str]) -> None:
    (FOLDER / f"{name}.lock").write_text(HEADER + "".join(blocks[key] for key in sorted(blocks)), encoding="utf-8")
    print(f"{name}.lock: {len(blocks)} packages", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pip-compile", default=shutil.which("pip-compile"), help="the program of pip-tools")
    parser.add_argument("names", nargs="*", help="locks to write  [all]")
    options = parser.parse_args()
    if options.pip_compile is None:
        raise SystemExit("pip-compile was not found: run `make lock`, or install pip-tools.")
    FOLDER.mkdir(exist_ok=True)
    for name, requirements in read_sets().items():
        if options.names and name not in options.names:
            continue
        blocks = compile_lock(options.pip_compile, name, requirements)
        apart = {key: block for key, block in blocks.items() if APART.match(key)}
        write_lock(name, {key: block for key, block in blocks.items() if key not in apart})
        if name == "cpu":
            write_lock("torch", apart)


if __name__ == "__main__":
    main()

"""Writes docs/licences.md: the terms of every package that Docker and CI install, and of the weights that cards name.

make licences

Packages and versions are those of requirements/*.lock; their terms are what their own metadata states.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCKS = {
    "cpu": "runtime",
    "gpu": "`gpu`",
    "train": "`tensorboard`",
    "torch": "CUDA build of torch",
    "dev": "development",
}
# As their publishers state them: no environment without a GPU has these packages.
ELSEWHERE = {
    "onnxruntime-gpu": "MIT",
    "triton": "MIT",
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "tensorrt": "NVIDIA, proprietary",
}
NVIDIA = re.compile(r"(nvidia-|cuda-toolkit$)")
NVIDIA_TERMS = "NVIDIA's, stated in the package"
# Longer texts are the licence itself, whose name then stands among the classifiers.
LONGEST = 40
SPDX = {
    "Apache": "Apache-2.0", "Apache 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0", "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause", "BSD": "BSD License", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License": "ISC",
}  # fmt: skip


def find_licence(package: str) -> str:
    """The terms that a package's metadata states."""
    if package in ELSEWHERE:
        return ELSEWHERE[package]
    if NVIDIA.match(package):
        return NVIDIA_TERMS
    try:
        stated = metadata.metadata(package)
    except metadata.PackageNotFoundError as error:
        raise SystemExit(f"{package} is locked and not installed: run `make setup`.") from error
    short = [text for text in (stated.get("License-Expression"),) if text]
    short += [text for text in (stated.get("License"),) if text and len(text) <= LONGEST and "\n" not in text]
    classifiers = [text.split(" :: ") for text in stated.get_all("Classifier") or []]
    found = [*short, *(parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 1)]
    if not found:
        raise SystemExit(f"{package} states no licence: add it to bench/licences.py, as its publisher states it.")
    return SPDX.get(found[0], found[0])


def package_rows() -> Iterator[str]:
    """One row per locked package: where it is used, its version and terms."""
    versions: dict[str, str] = {}
    uses: dict[str, list[str]] = {}
    for lock, use in LOCKS.items():
        text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
        for name, version in re.findall(r"^([\w.-]+)==([^ ]+)", text, re.MULTILINE):
            versions[name] = version
            uses.setdefault(name, []).append(use)
    versions["tensorrt"], uses["tensorrt"] = "not locked", [LOCKS["gpu"]]
    for name in sorted(versions):
        everywhere = {LOCKS["cpu"], LOCKS["gpu"], LOCKS["train"]} <= set(uses[name])
        shown = LOCKS["cpu"] if everywhere or LOCKS["cpu"] in uses[name] else ", ".join(uses[name])
        yield f"| {name} | {versions[name]} | {find_licence(name)} | {shown} |"


def weight_rows() -> Iterator[str]:
    """One row per card, and one for the network that reads phantoms."""
    from ccella.zoo.card import Licence
    from ccella.zoo.extractors.card import list_extractors
    from ccella.zoo.registry import DEFAULT_MODEL, list_cards

    def row(name: str, licence: Licence, source: str) -> str:
        terms = licence.name if licence.id in licence.name or licence.id in ("mixed", "trainer") else licence.id
        terms += " (limits use)" if licence.restricted else ""
        return f"| `{name}` | {terms} | {licence.url or ''} | {source} |"

    def source(repos: set[str]) -> str:
        return f"`ccella zoo pull`: {', '.join(sorted(repos))}" if repos else "no public weights"

    for card in list_cards():
        repos = {file.repo for part in card.parts.values() for file in part.public_files if file.repo}
        yield row(card.id, card.licence, "bundled" if card.id == DEFAULT_MODEL else source(repos))
    for extractor in list_extractors():
        repos = {file.repo for file in extractor.files if file.repo}
        yield row(extractor.id, extractor.licence, source(repos) if extractor.files else "no weights")
    yield "| phantom reader of `ccella evaluate prompt` | Apache-2.0 |  | bundled |"


def make_page() -> str:
    """The text of docs/licences.md."""
    packages, weights = "\n".join(package_rows()), "\n".join(weight_rows())
    return f"""<!-- Made by `make licences` from package metadata and cards. Change those, then run it again. -->

# Licences

ccella itself is Apache-2.0. What it installs and loads has terms of its own.

## Weights

| weights | terms | text | how they come |
|---|---|---|---|
{weights}

The terms of a model's weights stand in its card, are shown by `ccella zoo list` and `ccella zoo pull`, and are copied
into the sidecar of everything the model makes.

## Packages

As the packages' own metadata state it, for the versions in `requirements/*.lock`. What is used at run time stands as
"runtime", whatever else uses it too; "development" packages are in no container.

| package | version | terms | used by |
|---|---|---|---|
{packages}
"""


def main() -> None:
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()

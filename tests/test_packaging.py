"""The wheel holds every package, rooms import only what lies below them, and start-up imports nothing heavy."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = {"tests", "bench", "examples", "docs", ".ci"}
LEVELS = (
    ("cli",),
    ("study",),
    ("evaluation",),
    ("pipeline", "training"),
    ("export",),
    ("metrics", "zoo"),
    ("diffusion", "imaging"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
HEAVY = ("torch", "numpy", "monai", "diffusers", "transformers", "nibabel", "SimpleITK", "scipy", "PIL", "sklearn")


def repository_files() -> list[PurePosixPath]:
    """What git has or would add: the sources, without what was built from them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    return [PurePosixPath(line) for line in listing.stdout.splitlines() if (ROOT / line).exists()]


def package_files() -> list[PurePosixPath]:
    return [path for path in repository_files() if path.parts[0] not in OUTSIDE]


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in package_files() if path.suffix == ".py"}
    expected = {".".join(("ccella", *folder.parts)): str(folder) for folder in folders}
    assert settings["package-dir"] == expected
    assert sorted(settings["packages"]) == sorted(expected)


def test_only_init_stands_at_the_root() -> None:
    assert [path.name for path in repository_files() if len(path.parts) == 1 and path.suffix == ".py"] == [
        "__init__.py"
    ]


def test_every_package_has_an_init() -> None:
    files = set(package_files())
    assert not [path for path in files if path.suffix == ".py" and path.parent / "__init__.py" not in files]


def test_wheel_holds_what_git_holds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in repository_files():
        if path.parts[0] not in OUTSIDE:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes((ROOT / path).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("ccella-*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = wheel.read(next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))).decode()
    rooms = {path for path in package_files() if len(path.parts) > 1 and path.parts[0] in LEVEL}
    assert names == {f"ccella/{path}" for path in rooms} | {"ccella/__init__.py"}
    assert "ccella = ccella.cli.main:main" in entry_points


def imported_rooms(path: PurePosixPath) -> set[tuple[str, ...]]:
    """The modules of ours that a file imports anywhere in it, as parts below `ccella`."""
    found = set()
    package = path.parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [tuple((node.module or "").split("."))]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            below = (*base, *(node.module.split(".") if node.module else ()))
            names = [("ccella", *below)] if below else [("ccella", alias.name) for alias in node.names]
        else:
            continue
        found |= {name[1:] for name in names if name[0] == "ccella" and len(name) > 1}
    return found


def test_rooms_import_only_what_lies_below() -> None:
    wrong = []
    for path in package_files():
        if path.suffix != ".py" or len(path.parts) < 2:
            continue
        room = path.parts[0]
        for target in imported_rooms(path):
            other = target[0]
            if other in LEVEL and other != room and LEVEL[other] <= LEVEL[room]:
                wrong.append(f"{path} imports {'.'.join(target)}")
            crosses = path.parts[:2] == target[:2] == ("zoo", "families") and len(path.parts) > 3 and len(target) > 2
            if crosses and target[2] != path.parts[2]:
                wrong.append(f"{path} imports another family, {target[2]}")
    assert wrong == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["zoo", "list"],
        ["sample", "--help"],
        ["train", "denoiser", "--help"],
        ["evaluate", "images", "--help"],
    ],
)
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys; from ccella.cli.main import run; run({arguments!r}); print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stderr.split())

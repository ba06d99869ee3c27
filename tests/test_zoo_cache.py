"""The Hub client's cache: read-only, full, damaged, and where it lies."""

import os
import shutil
import subprocess
import sys

import pytest
from support.hub_client import LARGE, commit_of, records

from ccella.zoo.cache import cache_folder


def mounted(cache, options, then=""):
    """A command that runs another one with a file system of its own on the cache; skips where that is not allowed."""
    cache.mkdir(parents=True, exist_ok=True)
    flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    script = f'mount {options} "$0" && {then or "true"} && exec "$@"'
    before = ["unshare", *flags, "sh", "-c", script, str(cache)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*before, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine does not let a test mount a file system")
    return before


def test_a_read_only_cache(client):
    model = client.pinned_model()
    empty = client.run("pull", model, before=mounted(client.cache, "-t tmpfs -o ro tmpfs"))
    assert empty.returncode == 2
    assert f"cache {client.cache} cannot be written: Read-only file system" in empty.stderr
    assert client.run("pull", model).returncode == 0
    read_only = mounted(client.cache, f"--bind '{client.cache}'", f"mount -o remount,bind,ro '{client.cache}'")
    assert client.run("pull", model, before=read_only).returncode == 0
    assert client.run("verify", model, before=read_only).returncode == 0


def test_a_cache_without_space(hub, client):
    model = client.pinned_model()
    tiny = mounted(client.cache, "-t tmpfs -o size=48k tmpfs")
    done = client.run("pull", model, before=tiny)
    assert (done.returncode, "GB are needed" in done.stderr) == (2, True), done.stderr
    assert hub.count("storage") == 0
    # The listing promises less than what comes.
    hub.lies["model.safetensors"] = 100
    done = client.run("pull", model, before=tiny)
    assert (done.returncode, "is full" in done.stderr) == (2, True), done.stderr


def test_damage_in_the_cache_is_seen_and_repaired(client):
    model = client.pinned_model()
    missing = client.run("verify", model)
    assert (missing.returncode, "2 files are missing" in missing.stderr) == (3, True)
    client.run("pull", model)
    path = client.snapshot(commit_of(model), "model.safetensors")
    blob = path.resolve()
    blob.write_bytes(LARGE[:-1] + b"?")
    damaged = client.run("verify", model)
    assert damaged.returncode == 5
    assert str(path) in damaged.stderr
    repaired = client.run("pull", model, "--json")
    assert [row["fetched"] for row in records(repaired)] == [False, True]
    assert client.run("verify", model).returncode == 0


def test_a_lock_file_that_is_none(client):
    unpinned = client.unpinned_model()
    client.cache.mkdir(parents=True)
    (client.cache / "ccella.lock.json").write_text('{"schema": "ccella.lock/1"}', encoding="utf-8")
    done = client.run("pull", unpinned)
    assert (done.returncode, "ccella.lock.json cannot be read" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "variables",
    [{}, {"HF_HOME": "~/hf"}, {"XDG_CACHE_HOME": "/x"}, {"HF_HUB_CACHE": "$HOME/c", "HF_HOME": "/y"}],
)
def test_the_cache_lies_where_the_client_has_it(variables, monkeypatch):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert str(cache_folder()) == done.stdout.strip()

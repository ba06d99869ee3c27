"""Pulls that are cut, killed, interrupted, or made twice at once."""

import contextlib
import hashlib
import json
import signal
import subprocess
import time

from support.hub_client import LARGE, REPO, SMALL, commit_of, digest, records


def test_a_cut_connection_is_taken_up_again(hub, client):
    data = hashlib.sha256(b"x").digest() * (12 * 2**20 // 32)
    commit = hub.add(REPO, {"model.safetensors": data})
    model = client.write_model(REPO, commit, {"model.safetensors": digest(data)})
    hub.cuts = [11 * 2**20]
    assert client.run("pull", model).returncode == 0
    ranges = [headers.get("range") for origin, _, _, headers in hub.log if origin == "storage"]
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert client.snapshot(commit, "model.safetensors").read_bytes() == data


def test_a_connection_that_is_always_cut(hub, client):
    model = client.pinned_model()
    hub.cut_always = 1000
    done = client.run("pull", model)
    assert done.returncode == 3
    assert "could not be fetched" in done.stderr
    assert not list(client.cache.rglob("*.incomplete"))
    hub.cut_always = None
    again = client.run("pull", model, "--json")
    assert [row["fetched"] for row in records(again)] == [False, True]


def test_a_killed_pull_leaves_nothing_behind(hub, client):
    model = client.pinned_model()
    process = client.start_and_pause(model)
    partial = list(client.cache.rglob("*.incomplete"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(partial) == 1 and partial[0].exists()
    hub.pause_after = None
    assert client.run("pull", model).returncode == 0
    assert not partial[0].exists()
    assert client.snapshot(commit_of(model), "model.safetensors").read_bytes() == LARGE


def test_two_pulls_at_once(hub, client):
    unpinned = client.unpinned_model()
    first = client.start_and_pause(unpinned)
    partial = list(client.cache.rglob("*.incomplete"))
    second = client.start("pull", unpinned, "--json")
    # The second has looked at the repository and waits for the lock of the file that the first is fetching.
    asked = len(hub.log)
    while second.poll() is None and not any("resolve" in path for _, _, path, _ in hub.log[asked:]):
        time.sleep(0.05)
    assert partial and partial[0].exists()
    hub.released.set()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    rows = [[json.loads(line) for line in output.splitlines()] for output, _ in outputs]
    assert [row["sha256"] for row in rows[0]] == [row["sha256"] for row in rows[1]] == [digest(SMALL), digest(LARGE)]
    assert not list(client.cache.rglob("*.incomplete"))


def test_an_interrupted_pull_names_no_option_that_it_lacks(hub, client):
    model = client.pinned_model()
    process = client.start_and_pause(model)
    # Python drops an interruption that falls into a finaliser; a user presses the keys again.
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            break
    hub.released.set()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in told.decode() and "--resume" not in told.decode()

"""Pulling: a real client against a small real server, whole and broken; each fault has its sentence and exit code."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import hub_server as server

from ccella.zoo.cache import cache_folder
from ccella.zoo.card import read_card
from ccella.zoo.errors import WeightsMissingError
from ccella.zoo.folder import write_card
from ccella.zoo.loading import part_paths
from ccella.zoo.registry import find_card

REPO = "lab/encoder"
SMALL = b'{"model_type": "t5"}'
LARGE = bytes(range(256)) * 300  # 77 KB
FILES = {"config.json": SMALL, "model.safetensors": LARGE}


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub():
    with server.serve_hub() as running:
        yield running


def write_model(folder, repo, revision, files, **licence):
    """A model folder whose text encoder lies on the Hub; `files` gives the digest stated for each path."""
    document = json.loads(json.dumps(find_card("ccella").document))
    rows = [{"repo": repo, "revision": revision, "path": path, "sha256": sha256} for path, sha256 in files.items()]
    document["parts"]["text_encoder"]["files"] = rows
    del document["parts"]["autoencoder"]["checkpoint"]
    document["licence"].update(licence)
    folder.mkdir(parents=True, exist_ok=True)
    write_card(folder / "card.toml", document)
    return folder


@pytest.fixture
def model(hub, tmp_path):
    """A model with every digest pinned."""
    commit = hub.add(REPO, FILES)
    return write_model(tmp_path / "model", REPO, commit, {path: digest(data) for path, data in FILES.items()})


@pytest.fixture
def unpinned(hub, tmp_path):
    """A model of which neither commit nor digests are known."""
    hub.add(REPO, FILES)
    return write_model(tmp_path / "unpinned", REPO, "unpinned", dict.fromkeys(FILES, "unpinned"))


@pytest.fixture
def environment(hub, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE", "CCELLA"))}
    return kept | {
        "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip


@pytest.fixture
def cache(environment):
    return Path(environment["HF_HOME"]) / "hub"


@pytest.fixture
def ccella(environment):
    """Runs `ccella zoo ...`; `before` is what it is run by."""

    def run(*arguments, before=(), **changed):
        command = [*before, sys.executable, "-m", "ccella.cli.main", "zoo", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment | changed, capture_output=True, text=True, encoding="utf-8", timeout=120,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def snapshot(cache, commit, path):
    return cache / "models--lab--encoder" / "snapshots" / commit / path


def commit_of(model):
    return read_card(model / "card.toml").part("text_encoder").files[0].revision


def test_pull_checks_and_verify_agrees(hub, model, ccella, cache):
    done = ccella("pull", model, "--json", HF_TOKEN=server.TOKEN)
    assert done.returncode == 0, done.stderr
    assert [(row["file"], row["sha256"], row["fetched"]) for row in records(done)] == [
        (path, digest(data), True) for path, data in FILES.items()
    ]
    assert "to be trained or imported: denoiser" in done.stderr
    assert {path: snapshot(cache, commit_of(model), path).read_bytes() for path in FILES} == FILES
    assert any("authorization" in headers for origin, _, _, headers in hub.log if origin == "hub")
    assert not any("authorization" in headers for origin, _, _, headers in hub.log if origin == "storage")
    hub.log.clear()
    again = ccella("pull", model, "--json")
    assert [row["fetched"] for row in records(again)] == [False, False]
    checked = ccella("verify", model, "--json", HF_HUB_OFFLINE="1")
    assert (checked.returncode, [row["state"] for row in records(checked)]) == (0, ["ok", "ok"])
    assert hub.log == []
    assert not (cache / "ccella.lock.json").exists()


def test_first_pull_records_and_later_ones_hold(hub, unpinned, ccella, cache):
    assert ccella("pull", unpinned).returncode == 0
    lock = json.loads((cache / "ccella.lock.json").read_text(encoding="utf-8"))
    first = next(iter(hub.repos[REPO].commits))
    assert lock["revisions"] == {REPO: first}
    assert lock["files"] == {
        f"{REPO}@{first}/{path}": {"sha256": digest(data), "size": len(data)} for path, data in FILES.items()
    }
    assert json.loads(ccella("show", unpinned, "--json").stdout)["digests"] == "lock 2"
    # The branch moves on; the commit is held.
    hub.add(REPO, {path: data + b"!" for path, data in FILES.items()})
    again = ccella("pull", unpinned, "--json")
    assert {row["revision"] for row in records(again)} == {first}
    # The commit itself is replaced behind our back, consistently.
    shutil.rmtree(cache / "models--lab--encoder")
    hub.repos[REPO].commits[first] = {"config.json": SMALL, "model.safetensors": LARGE[::-1]}
    done = ccella("pull", unpinned)
    assert done.returncode == 5
    assert digest(LARGE[::-1]) in done.stderr and digest(LARGE) in done.stderr


def test_what_is_changed_on_the_way_is_deleted(hub, model, ccella, cache):
    hub.tampered[digest(LARGE)] = LARGE[::-1]
    done = ccella("pull", model)
    assert done.returncode == 5
    assert f"model.safetensors of {REPO} arrived with SHA-256 {digest(LARGE[::-1])}" in done.stderr
    assert not list((cache / "models--lab--encoder" / "blobs").glob(f"{digest(LARGE)}*"))
    hub.tampered.clear()
    assert ccella("pull", model).returncode == 0


def test_a_small_file_with_other_content(hub, model, ccella, cache):
    hub.repos[REPO].commits[commit_of(model)]["config.json"] = SMALL.swapcase()
    done = ccella("pull", model)
    assert done.returncode == 5
    assert not snapshot(cache, commit_of(model), "config.json").exists()


def test_an_offer_that_differs_from_the_pin_is_not_fetched(hub, tmp_path, ccella):
    commit = hub.add(REPO, FILES)
    model = write_model(tmp_path / "model", REPO, commit, {"model.safetensors": "0" * 64})
    done = ccella("pull", model)
    assert done.returncode == 5
    assert "Nothing was fetched" in done.stderr
    assert hub.count("storage") == 0


def test_a_cut_connection_is_taken_up_again(hub, tmp_path, ccella, cache):
    data = hashlib.sha256(b"x").digest() * (12 * 2**20 // 32)
    commit = hub.add(REPO, {"model.safetensors": data})
    model = write_model(tmp_path / "model", REPO, commit, {"model.safetensors": digest(data)})
    hub.cuts = [11 * 2**20]
    assert ccella("pull", model).returncode == 0
    ranges = [headers.get("range") for origin, _, _, headers in hub.log if origin == "storage"]
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert snapshot(cache, commit, "model.safetensors").read_bytes() == data


def test_a_connection_that_is_always_cut(hub, model, ccella, cache):
    hub.cut_always = 1000
    done = ccella("pull", model)
    assert done.returncode == 3
    assert "could not be fetched" in done.stderr
    assert not list(cache.rglob("*.incomplete"))
    hub.cut_always = None
    again = ccella("pull", model, "--json")
    assert [row["fetched"] for row in records(again)] == [False, True]


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"HF_TOKEN": "hf_wrong"}, 4, "answered 401"),
        ({"HF_HUB_OFFLINE": "1"}, 3, "HF_HUB_OFFLINE forbids"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "could not be fetched from http://127.0.0.1:9"),
    ],
)
def test_what_the_environment_forbids(model, ccella, change, code, sentence):
    done = ccella("pull", model, **change)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("repo", "revision", "path", "token", "code", "sentence"),
    [
        ("lab/none", None, "config.json", server.TOKEN, 3, "no such repository"),
        ("lab/none", None, "config.json", "", 4, "answered 401"),
        (REPO, "f" * 40, "config.json", "", 3, "no such revision"),
        (REPO, None, "none.json", "", 3, "has no file none.json"),
        ("lab/gated", None, "config.json", server.TOKEN, 4, "gated"),
    ],
)
def test_what_the_hub_does_not_give(hub, tmp_path, ccella, repo, revision, path, token, code, sentence):
    commit = hub.add(REPO, FILES)
    commit = hub.add("lab/gated", FILES, gated=True) if repo == "lab/gated" else commit
    model = write_model(tmp_path / "model", repo, revision or commit, {path: "unpinned"})
    done = ccella("pull", model, HF_TOKEN=token)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


def test_a_hub_that_is_down(hub, model, ccella):
    hub.status = 503
    done = ccella("pull", model)
    assert (done.returncode, "answered 503" in done.stderr) == (3, True), done.stderr


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


def test_a_read_only_cache(model, ccella, cache):
    empty = ccella("pull", model, before=mounted(cache, "-t tmpfs -o ro tmpfs"))
    assert empty.returncode == 2
    assert f"cache {cache} cannot be written: Read-only file system" in empty.stderr
    assert ccella("pull", model).returncode == 0
    read_only = mounted(cache, f"--bind '{cache}'", f"mount -o remount,bind,ro '{cache}'")
    assert ccella("pull", model, before=read_only).returncode == 0
    assert ccella("verify", model, before=read_only).returncode == 0


def test_a_cache_without_space(hub, model, ccella, cache):
    tiny = mounted(cache, "-t tmpfs -o size=48k tmpfs")
    done = ccella("pull", model, before=tiny)
    assert (done.returncode, "GB are needed" in done.stderr) == (2, True), done.stderr
    assert hub.count("storage") == 0
    # The listing promises less than what comes.
    hub.lies["model.safetensors"] = 100
    done = ccella("pull", model, before=tiny)
    assert (done.returncode, "is full" in done.stderr) == (2, True), done.stderr


def _take_interruptions():
    # Where the tests run in the background SIGINT is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_and_pause(hub, model, environment):
    """A pull that has received a part of the large file and waits for more."""
    hub.pause_after = 1000
    command = [sys.executable, "-m", "ccella.cli.main", "zoo", "pull", str(model), "--json"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_take_interruptions
    )
    assert hub.paused.wait(60)
    return process


def test_a_killed_pull_leaves_nothing_behind(hub, model, ccella, cache, environment):
    process = start_and_pause(hub, model, environment)
    partial = list(cache.rglob("*.incomplete"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(partial) == 1 and partial[0].exists()
    hub.pause_after = None
    assert ccella("pull", model).returncode == 0
    assert not partial[0].exists()
    assert snapshot(cache, commit_of(model), "model.safetensors").read_bytes() == LARGE


def test_two_pulls_at_once(hub, unpinned, ccella, cache, environment):
    first = start_and_pause(hub, unpinned, environment)
    partial = list(cache.rglob("*.incomplete"))
    command = [sys.executable, "-m", "ccella.cli.main", "zoo", "pull", str(unpinned), "--json"]
    second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
    assert not list(cache.rglob("*.incomplete"))


def test_damage_in_the_cache_is_seen_and_repaired(hub, model, ccella, cache):
    missing = ccella("verify", model)
    assert (missing.returncode, "2 files are missing" in missing.stderr) == (3, True)
    ccella("pull", model)
    path = snapshot(cache, commit_of(model), "model.safetensors")
    blob = path.resolve()
    blob.write_bytes(LARGE[:-1] + b"?")
    damaged = ccella("verify", model)
    assert damaged.returncode == 5
    assert str(path) in damaged.stderr
    repaired = ccella("pull", model, "--json")
    assert [row["fetched"] for row in records(repaired)] == [False, True]
    assert ccella("verify", model).returncode == 0


def test_a_licence_that_limits_use_is_asked_for_once(hub, tmp_path, ccella):
    commit = hub.add(REPO, FILES)
    model = write_model(
        tmp_path / "model", REPO, commit, {"config.json": digest(SMALL)},
        id="lab-nc-1", name="Lab Non-Commercial 1", url="https://example.org/terms", restricted=True,
    )  # fmt: skip
    refused = ccella("pull", model)
    assert refused.returncode == 4
    assert "Lab Non-Commercial 1 (lab-nc-1)" in refused.stderr and "--accept-license lab-nc-1" in refused.stderr
    assert hub.log == []
    assert ccella("pull", model, "--accept-license", "MIT").returncode == 2
    assert ccella("pull", model, "--accept-license", "lab-nc-1").returncode == 0
    assert ccella("pull", model).returncode == 0


def test_a_feature_extractor(hub, ccella, cache, tmp_path):
    """Its card names a repository like a model's; nobody has stated commit and digest, so the lock file holds them."""
    hub.add("TencentMedicalNet/MedicalNet-Resnet50", {"resnet_50_23dataset.pth": LARGE})
    done = ccella("pull", "medicalnet-resnet50", "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["part"], row["sha256"], row["fetched"]) for row in records(done)] == [("network", digest(LARGE), True)]
    checked = ccella("verify", "medicalnet-resnet50", "--json", HF_HUB_OFFLINE="1")
    assert [row["state"] for row in records(checked)] == ["ok"], checked.stderr
    bundled = ccella("bundle", "medicalnet-resnet50", "-o", tmp_path / "one.bundle", "--json")
    assert records(bundled)[0]["files"] == ["resnet_50_23dataset.pth"], bundled.stderr
    other = {"HF_HOME": str(tmp_path / "other"), "HF_HUB_OFFLINE": "1"}
    assert ccella("unbundle", tmp_path / "one.bundle", **other).returncode == 0
    assert ccella("verify", "medicalnet-resnet50", **other).returncode == 0


def test_a_public_checkpoint_is_fetched_and_converted(hub, tiny_model, ccella, tmp_path):
    import torch
    from safetensors.torch import load_file

    weights = load_file(tiny_model / "autoencoder.safetensors")
    torch.save(weights, tmp_path / "autoencoder.pt")
    commit = hub.add("lab/autoencoder", {"models/autoencoder.pt": (tmp_path / "autoencoder.pt").read_bytes()})
    document = json.loads(json.dumps(read_card(tiny_model / "card.toml").document))
    document["parts"] = {**document["parts"], "text_encoder": {**document["parts"]["text_encoder"], "files": []}}
    file = {"repo": "lab/autoencoder", "revision": commit, "path": "models/autoencoder.pt", "sha256": "unpinned"}
    document["parts"]["autoencoder"] = {**document["parts"]["autoencoder"], "files": [], "checkpoint": file}
    document["parts"]["denoiser"]["files"] = []
    model = tmp_path / "model"
    model.mkdir()
    write_card(model / "card.toml", document)
    with pytest.raises(WeightsMissingError) as missing:
        part_paths(read_card(model / "card.toml"), "autoencoder")
    assert f"zoo pull {model} -o DIR" in missing.value.remedy
    told = ccella("pull", model, "--json")
    assert [row["part"] for row in records(told)] == ["autoencoder"], told.stderr
    assert f"--as {model} -o DIR" in told.stderr
    made = ccella("pull", model, "-o", tmp_path / "made")
    assert made.returncode == 0, made.stderr
    assert "to be imported" not in made.stderr and "trained or imported: denoiser" in made.stderr
    found = load_file(tmp_path / "made" / "autoencoder.safetensors")
    assert set(found) == set(weights) and all(torch.equal(found[name], weights[name]) for name in weights)
    # What has its weights needs no checkpoint any more.
    assert ccella("verify", tmp_path / "made", "--json").returncode == 0
    assert ccella("pull", tmp_path / "made", "-o", tmp_path / "again").returncode == 2


def test_an_interrupted_pull_names_no_option_that_it_lacks(hub, model, environment):
    process = start_and_pause(hub, model, environment)
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


def test_a_lock_file_that_is_none(unpinned, ccella, cache):
    cache.mkdir(parents=True)
    (cache / "ccella.lock.json").write_text('{"schema": "ccella.lock/1"}', encoding="utf-8")
    done = ccella("pull", unpinned)
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

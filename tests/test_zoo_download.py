"""Pulling: a real client against a small real server; each fault has its sentence and exit code."""

import json
import shutil

import pytest
from support import hub_server as server
from support.hub_client import FILES, LARGE, REPO, SMALL, commit_of, digest, records

from ccella.zoo.card import read_card
from ccella.zoo.errors import WeightsMissingError
from ccella.zoo.folder import write_card
from ccella.zoo.loading import part_paths


def test_pull_checks_and_verify_agrees(hub, client):
    model = client.pinned_model()
    done = client.run("pull", model, "--json", HF_TOKEN=server.TOKEN)
    assert done.returncode == 0, done.stderr
    assert [(row["file"], row["sha256"], row["fetched"]) for row in records(done)] == [
        (path, digest(data), True) for path, data in FILES.items()
    ]
    assert "to be trained or imported: denoiser" in done.stderr
    assert {path: client.snapshot(commit_of(model), path).read_bytes() for path in FILES} == FILES
    assert any("authorization" in headers for origin, _, _, headers in hub.log if origin == "hub")
    assert not any("authorization" in headers for origin, _, _, headers in hub.log if origin == "storage")
    hub.log.clear()
    again = client.run("pull", model, "--json")
    assert [row["fetched"] for row in records(again)] == [False, False]
    checked = client.run("verify", model, "--json", HF_HUB_OFFLINE="1")
    assert (checked.returncode, [row["state"] for row in records(checked)]) == (0, ["ok", "ok"])
    assert hub.log == []
    assert not (client.cache / "ccella.lock.json").exists()


def test_first_pull_records_and_later_ones_hold(hub, client):
    unpinned = client.unpinned_model()
    assert client.run("pull", unpinned).returncode == 0
    lock = json.loads((client.cache / "ccella.lock.json").read_text(encoding="utf-8"))
    first = next(iter(hub.repos[REPO].commits))
    assert lock["revisions"] == {REPO: first}
    assert lock["files"] == {
        f"{REPO}@{first}/{path}": {"sha256": digest(data), "size": len(data)} for path, data in FILES.items()
    }
    assert json.loads(client.run("show", unpinned, "--json").stdout)["digests"] == "lock 2"
    # The branch moves on; the commit is held.
    hub.add(REPO, {path: data + b"!" for path, data in FILES.items()})
    again = client.run("pull", unpinned, "--json")
    assert {row["revision"] for row in records(again)} == {first}
    # The commit itself is replaced behind our back, consistently.
    shutil.rmtree(client.cache / "models--lab--encoder")
    hub.repos[REPO].commits[first] = {"config.json": SMALL, "model.safetensors": LARGE[::-1]}
    done = client.run("pull", unpinned)
    assert done.returncode == 5
    assert digest(LARGE[::-1]) in done.stderr and digest(LARGE) in done.stderr


def test_what_is_changed_on_the_way_is_deleted(hub, client):
    model = client.pinned_model()
    hub.tampered[digest(LARGE)] = LARGE[::-1]
    done = client.run("pull", model)
    assert done.returncode == 5
    assert f"model.safetensors of {REPO} arrived with SHA-256 {digest(LARGE[::-1])}" in done.stderr
    assert not list((client.cache / "models--lab--encoder" / "blobs").glob(f"{digest(LARGE)}*"))
    hub.tampered.clear()
    assert client.run("pull", model).returncode == 0


def test_a_small_file_with_other_content(hub, client):
    model = client.pinned_model()
    hub.repos[REPO].commits[commit_of(model)]["config.json"] = SMALL.swapcase()
    done = client.run("pull", model)
    assert done.returncode == 5
    assert not client.snapshot(commit_of(model), "config.json").exists()


def test_an_offer_that_differs_from_the_pin_is_not_fetched(hub, client):
    commit = hub.add(REPO, FILES)
    model = client.write_model(REPO, commit, {"model.safetensors": "0" * 64})
    done = client.run("pull", model)
    assert done.returncode == 5
    assert "Nothing was fetched" in done.stderr
    assert hub.count("storage") == 0


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({"HF_TOKEN": "hf_wrong"}, 4, "answered 401"),
        ({"HF_HUB_OFFLINE": "1"}, 3, "HF_HUB_OFFLINE forbids"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "could not be fetched from http://127.0.0.1:9"),
    ],
)
def test_what_the_environment_forbids(client, change, code, sentence):
    model = client.pinned_model()
    done = client.run("pull", model, **change)
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
def test_what_the_hub_does_not_give(hub, client, repo, revision, path, token, code, sentence):
    commit = hub.add(REPO, FILES)
    commit = hub.add("lab/gated", FILES, gated=True) if repo == "lab/gated" else commit
    model = client.write_model(repo, revision or commit, {path: "unpinned"})
    done = client.run("pull", model, HF_TOKEN=token)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


def test_a_hub_that_is_down(hub, client):
    model = client.pinned_model()
    hub.status = 503
    done = client.run("pull", model)
    assert (done.returncode, "answered 503" in done.stderr) == (3, True), done.stderr


def test_a_licence_that_limits_use_is_asked_for_once(hub, client):
    commit = hub.add(REPO, FILES)
    model = client.write_model(
        REPO, commit, {"config.json": digest(SMALL)},
        id="lab-nc-1", name="Lab Non-Commercial 1", url="https://example.org/terms", restricted=True,
    )  # fmt: skip
    refused = client.run("pull", model)
    assert refused.returncode == 4
    assert "Lab Non-Commercial 1 (lab-nc-1)" in refused.stderr and "--accept-license lab-nc-1" in refused.stderr
    assert hub.log == []
    assert client.run("pull", model, "--accept-license", "MIT").returncode == 2
    assert client.run("pull", model, "--accept-license", "lab-nc-1").returncode == 0
    assert client.run("pull", model).returncode == 0


def test_a_feature_extractor(hub, client, tmp_path):
    """Its card names a repository like a model's; nobody has stated commit and digest, so the lock file holds them."""
    hub.add("TencentMedicalNet/MedicalNet-Resnet50", {"resnet_50_23dataset.pth": LARGE})
    done = client.run("pull", "medicalnet-resnet50", "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["part"], row["sha256"], row["fetched"]) for row in records(done)] == [("network", digest(LARGE), True)]
    checked = client.run("verify", "medicalnet-resnet50", "--json", HF_HUB_OFFLINE="1")
    assert [row["state"] for row in records(checked)] == ["ok"], checked.stderr
    bundled = client.run("bundle", "medicalnet-resnet50", "-o", tmp_path / "one.bundle", "--json")
    assert records(bundled)[0]["files"] == ["resnet_50_23dataset.pth"], bundled.stderr
    other = {"HF_HOME": str(tmp_path / "other"), "HF_HUB_OFFLINE": "1"}
    assert client.run("unbundle", tmp_path / "one.bundle", **other).returncode == 0
    assert client.run("verify", "medicalnet-resnet50", **other).returncode == 0


def test_a_public_checkpoint_is_fetched_and_converted(hub, client, tiny_model, tmp_path):
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
    told = client.run("pull", model, "--json")
    assert [row["part"] for row in records(told)] == ["autoencoder"], told.stderr
    assert f"--as {model} -o DIR" in told.stderr
    made = client.run("pull", model, "-o", tmp_path / "made")
    assert made.returncode == 0, made.stderr
    assert "to be imported" not in made.stderr and "trained or imported: denoiser" in made.stderr
    found = load_file(tmp_path / "made" / "autoencoder.safetensors")
    assert set(found) == set(weights) and all(torch.equal(found[name], weights[name]) for name in weights)
    # What has its weights needs no checkpoint any more.
    assert client.run("verify", tmp_path / "made", "--json").returncode == 0
    assert client.run("pull", tmp_path / "made", "-o", tmp_path / "again").returncode == 2

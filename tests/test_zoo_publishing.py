"""Publishing: a real client against a small real server; what is refused has its sentence and its exit code."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from support import hub_upload_server as server

from ccella.zoo.card import read_card
from ccella.zoo.errors import DigestMismatchError, UnknownModelError
from ccella.zoo.modelcard import describe_model, flatten_table
from ccella.zoo.publishing import prepare_upload
from ccella.zoo.registry import find_card


@pytest.fixture(scope="module")
def hub():
    with server.serve_uploads() as running:
        yield running


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model folder in which a training has left its traces."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/training/denoiser/samples").mkdir(parents=True)
    (tmp_path / "model/training/denoiser/samples/step-1.png").write_bytes(b"a patient")
    return tmp_path / "model"


def push(hub, folder, repo, *options, token=server.TOKEN, **changed):
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "NO_PROXY": "127.0.0.1", **changed,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "ccella.cli.main", "zoo", "push", str(folder), repo, *options],
        capture_output=True, env=environment, check=False, encoding="utf-8",
    )  # fmt: skip


def test_what_arrives_is_the_model_and_its_readme_and_nothing_else(hub, folder):
    done = push(hub, folder, "lab/prostate", "--json")
    assert done.returncode == 0, done.stderr
    arrived = hub.repos["lab/prostate"]
    card = read_card(folder / "card.toml")
    named = {file.path for part in card.parts.values() for file in part.files}
    assert set(arrived) == named | {"card.toml", "README.md"}
    assert all(arrived[name] == (folder / name).read_bytes() for name in named | {"card.toml"})
    assert arrived["README.md"].decode() == describe_model(card, "lab/prostate")
    assert hub.visibility["lab/prostate"] == "private"
    result = json.loads(done.stdout)
    assert (result["repo"], len(result["commit"])) == ("lab/prostate", 40)
    # Again: the repository is there, and large files are not sent twice.
    sent = sum(line.startswith("PUT") for line in hub.requests)
    assert push(hub, folder, "lab/prostate").returncode == 0
    assert sum(line.startswith("PUT") for line in hub.requests) == sent > 0


@pytest.mark.parametrize(
    ("repo", "token", "changed", "code", "sentence"),
    [
        ("lab/other", "", {}, 4, "takes uploads with a token only"),
        ("lab/other", server.READER, {}, 4, "The token in use may not write to lab/other (403)."),
        ("nobody/model", server.TOKEN, {}, 2, "There is no repository nobody/model, nor may it be made (404)."),
        ("lab/a/b", server.TOKEN, {}, 2, "cannot be the name of a repository"),
        ("lab/other", server.TOKEN, {"HF_HUB_OFFLINE": "1"}, 3, "HF_HUB_OFFLINE is set"),
        ("lab/other", server.TOKEN, {"HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "cannot be reached"),
    ],
)
def test_refusals_have_a_sentence_and_a_code(hub, folder, repo, token, changed, code, sentence):
    done = push(hub, folder, repo, token=token, **changed)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert repo not in hub.repos


def test_a_dry_run_asks_nobody(hub, folder):
    before = len(hub.requests)
    done = push(hub, folder, "lab/dry", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] is None
    assert "training" not in done.stdout
    assert len(hub.requests) == before


def test_damaged_files_are_not_published(folder):
    path = folder / "denoiser.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestMismatchError):
        prepare_upload(folder, "lab/x")
    with pytest.raises(UnknownModelError, match=r"no card\.toml"):
        prepare_upload(folder / "training", "lab/x")


def test_the_readme_tells_what_the_card_tells():
    card = find_card("ccella-pp/phantom")
    text = describe_model(card, "lab/phantom")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == card.licence.id.lower()
    for fact in (card.title, card.intended_use, card.licence.name, "hf download lab/phantom"):
        assert fact in text
    for key, value in flatten_table(card.measured, "").items():
        assert f"| {key} | {value} |" in text
    assert "| autoencoder.data.exams | 2950 |" in text
    assert all(file.sha256 in text for part in card.parts.values() for file in part.files)


def test_a_licence_the_hub_does_not_know_is_named_in_words():
    text = describe_model(find_card("ccella-pp"), "lab/pp")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == find_card("ccella-pp").licence.name
    assert "Nothing has been measured yet." in text

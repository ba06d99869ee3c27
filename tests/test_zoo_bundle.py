"""Bundles carry a model in one file; a changed, cut or foreign file is refused and leaves nothing behind."""

import hashlib
import io
import json
import tarfile

import pytest

from ccella.imaging.errors import InputError
from ccella.zoo.bundle import read_bundle, unpack_bundle, write_bundle
from ccella.zoo.card import read_card
from ccella.zoo.errors import DigestMismatchError, WeightsMissingError
from ccella.zoo.folder import write_card
from ccella.zoo.inventory import verify
from ccella.zoo.loading import part_paths
from ccella.zoo.lock import read_lock
from ccella.zoo.registry import find_card

COMMIT = "a" * 40
CONTENTS = {"config.json": b"{}", "sub/model.safetensors": bytes(range(256)) * 50}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Chooses the cache: `cache("a")` is one machine, `cache("b")` another."""

    def choose(name):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / name))
        return tmp_path / name

    choose("first")
    return choose


@pytest.fixture
def model(cache, tmp_path):
    """A model folder that refers to two files in the cache, of which no digest is known."""
    document = json.loads(json.dumps(find_card("ccella").document))
    del document["parts"]["autoencoder"]["checkpoint"]
    rows = [{"repo": "lab/encoder", "revision": COMMIT, "path": path, "sha256": "unpinned"} for path in CONTENTS]
    document["parts"]["text_encoder"]["files"] = rows
    (tmp_path / "model").mkdir()
    write_card(tmp_path / "model/card.toml", document)
    for path, data in CONTENTS.items():
        file = cache("first") / "models--lab--encoder" / "snapshots" / COMMIT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return read_card(tmp_path / "model/card.toml")


def test_a_model_arrives_on_another_machine(model, cache, tmp_path):
    bundle, sha256 = write_bundle(model, tmp_path / "one.tar")
    assert sha256 == hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest()
    assert write_bundle(model, tmp_path / "two.tar")[1] == sha256
    other = cache("second")
    placed = dict(unpack_bundle(tmp_path / "one.tar", tmp_path / "there", sha256=sha256))
    assert len(placed) == len(bundle.files) == 3
    card = read_card(tmp_path / "there/card.toml")
    assert {path.name: path.read_bytes() for path in part_paths(card, "text_encoder")} == {
        "config.json": CONTENTS["config.json"], "model.safetensors": CONTENTS["sub/model.safetensors"],
    }  # fmt: skip
    assert all(path.is_relative_to(other) for path in part_paths(card, "text_encoder"))
    # What nobody had pinned is held from now on.
    assert [state.state for state in verify(card)] == ["ok", "ok"]
    assert not (tmp_path / "there/.unbundle").exists()


def test_a_model_folder_of_its_own(tiny_model, cache, tmp_path):
    write_bundle(read_card(tiny_model / "card.toml"), tmp_path / "tiny.tar")
    with pytest.raises(InputError, match="holds a model folder"):
        list(unpack_bundle(tmp_path / "tiny.tar"))
    list(unpack_bundle(tmp_path / "tiny.tar", tmp_path / "there"))
    for path in tiny_model.rglob("*"):
        if path.is_file():
            assert (tmp_path / "there" / path.relative_to(tiny_model)).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="already holds a model"):
        list(unpack_bundle(tmp_path / "tiny.tar", tmp_path / "there"))


def test_a_file_that_is_not_there(model, cache, tmp_path):
    cache("empty")
    with pytest.raises(WeightsMissingError) as caught:
        write_bundle(model, tmp_path / "none.tar")
    assert f"ccella zoo pull {tmp_path / 'model'}" in caught.value.remedy
    assert not (tmp_path / "none.tar").exists()


@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damage(model, cache, tmp_path, place, damage):
    write_bundle(model, tmp_path / "one.tar")
    data = bytearray((tmp_path / "one.tar").read_bytes())
    at = data.index(CONTENTS["sub/model.safetensors"][:256]) + int(place * len(CONTENTS["sub/model.safetensors"]))
    data = data[:at] if damage == "cut" else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    (tmp_path / "one.tar").write_bytes(data)
    other = cache("second")
    with pytest.raises(DigestMismatchError):
        list(unpack_bundle(tmp_path / "one.tar", tmp_path / "there"))
    assert not (tmp_path / "there/card.toml").exists()
    assert not list(other.rglob("*.safetensors"))


def test_the_whole_file_has_another_digest(model, tmp_path):
    write_bundle(model, tmp_path / "one.tar")
    with pytest.raises(DigestMismatchError, match="0000"):
        list(unpack_bundle(tmp_path / "one.tar", tmp_path / "there", sha256="0" * 64))


def test_other_bytes_than_the_lock_holds(model, cache, tmp_path):
    write_bundle(model, tmp_path / "one.tar")
    path = cache("first") / "models--lab--encoder" / "snapshots" / COMMIT / "config.json"
    path.write_bytes(b"{ }")
    write_bundle(model, tmp_path / "two.tar")
    cache("second")
    list(unpack_bundle(tmp_path / "one.tar", tmp_path / "there"))
    assert read_lock().files[f"lab/encoder@{COMMIT}/config.json"]["size"] == 2
    with pytest.raises(DigestMismatchError, match="is pinned"):
        list(unpack_bundle(tmp_path / "two.tar", tmp_path / "elsewhere"))


def forge(target, members, *, link=None):
    with tarfile.open(target, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(info)


def listing(**changed):
    row = {"path": "config.json", "repo": "lab/encoder", "revision": COMMIT, "sha256": "0" * 64, "size": 2} | changed
    return json.dumps({"schema": "ccella.bundle/1", "model": "x", "licence": {}, "files": [row]}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "../../x"},
        {"path": "/etc/x"},
        {"path": ""},
        {"repo": "../x"},
        {"repo": "a/../b"},
        {"repo": "a/.."},
        {"revision": "../../../x"},
        {"revision": None},
        {"sha256": "../x"},
        {"size": "many"},
    ],
)
def test_nothing_leads_out_of_cache_or_folder(cache, tmp_path, changed):
    forge(tmp_path / "x.tar", [("bundle.json", listing(**changed))])
    with pytest.raises(InputError, match="no bundle of ccella"):
        list(unpack_bundle(tmp_path / "x.tar"))


@pytest.mark.parametrize(
    ("members", "link"),
    [
        ([("bundle.json", listing()), ("../evil", b"{}")], None),
        ([("bundle.json", listing())], "0" * 64),
        ([("bundle.json", b"[]")], None),
        ([("bundle.json", b'{"schema": "ccella.bundle/2"}')], None),
        ([("other", b"{}")], None),
    ],
)
def test_what_is_no_bundle(cache, tmp_path, members, link):
    forge(tmp_path / "x.tar", members, link=link)
    with pytest.raises(InputError, match="no bundle of ccella"):
        list(unpack_bundle(tmp_path / "x.tar"))
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("content", [b"", b"no tar" * 100])
def test_what_is_no_tar(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError):
        read_bundle(tmp_path / "x.tar")
    with pytest.raises(InputError, match="There is no file"):
        read_bundle(tmp_path / "y.tar")

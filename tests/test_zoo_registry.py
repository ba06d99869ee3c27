import pytest

from ccella.zoo.errors import CardError, UnknownModelError
from ccella.zoo.names import parse_model_name
from ccella.zoo.registry import DEFAULT_MODEL, find_card, list_cards

KNOWN = {"ccella", "ccella-pp", "ccella-pp/phantom"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model folder called like a zoo model, and one called otherwise."""
    card = (find_card(DEFAULT_MODEL).directory / "card.toml").read_text(encoding="utf-8")
    for name in ("ccella-pp", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.toml").write_text(card, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "id", "directory", "revision"),
    [
        ("ccella", "ccella", None, None),
        ("ccella-pp/phantom", "ccella-pp/phantom", None, None),
        ("ccella@" + "a" * 40, "ccella", None, "a" * 40),
        ("./runs/mine", None, "runs/mine", None),
        ("/models/x", None, "/models/x", None),
        ("runs/", None, "runs", None),
        ("unheard-of", "unheard-of", None, None),
    ],
)
def test_grammar(text, id, directory, revision):
    parsed = parse_model_name(text, KNOWN)
    assert parsed.id == id
    assert (None if parsed.directory is None else parsed.directory.as_posix()) == directory
    assert parsed.revision == revision


@pytest.mark.parametrize("text", ["", "@", "ccella@", "a b", "a/b/c", "./mine@" + "a" * 40])
def test_what_is_no_name(text):
    with pytest.raises(UnknownModelError):
        parse_model_name(text, KNOWN)


def test_ambiguity_is_refused_with_the_way_out(folder):
    with pytest.raises(UnknownModelError, match="both a model of the zoo and a model folder") as caught:
        find_card("ccella-pp")
    assert "./ccella-pp" in caught.value.remedy
    assert find_card("./ccella-pp").directory.resolve() == folder / "ccella-pp"
    assert find_card("mine").directory.resolve() == folder / "mine"


def test_nearest_name():
    with pytest.raises(UnknownModelError) as caught:
        find_card("ccela-pp")
    assert "ccella-pp" in caught.value.remedy


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(UnknownModelError, match="not a model folder"):
        find_card(str(tmp_path))


def test_revision_reaches_every_hub_file_and_drops_the_pins():
    files = find_card("ccella@" + "b" * 40).part("text_encoder").files
    assert {file.revision for file in files} == {"b" * 40}
    assert {file.sha256 for file in files} == {"unpinned"}


@pytest.mark.parametrize("name", ["ccella@main", "ccella-pp/phantom@" + "b" * 40])
def test_revisions_that_mean_nothing(name):
    with pytest.raises(CardError):
        find_card(name)


def test_hub_files_lie_in_commits_or_say_that_they_are_not_pinned():
    for card in list_cards():
        for part in card.parts.values():
            for file in part.files:
                assert file.repo is None or file.revision == "unpinned" or len(file.revision) == 40

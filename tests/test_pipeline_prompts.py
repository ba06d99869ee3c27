"""Prompts from files, folders, manifests and standard input."""

import io
import json

import pytest

from ccella.diffusion.noise import seed_from_id
from ccella.imaging.errors import InputError
from ccella.pipeline.prompt_formats import near_columns
from ccella.pipeline.prompts import PromptItem, expand_seeds, read_prompts


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_prompt_named_after_the_file(tmp_path):
    path = write(tmp_path / "report.txt", b"\xef\xbb\xbf  Lesion left.\r\nPI-RADS 4.\r\n")
    assert read_prompts(path) == [PromptItem("report", "Lesion left.\nPI-RADS 4.")]


def test_a_folder_gives_its_text_files_by_name(tmp_path):
    write(tmp_path / "b.txt", "two")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / ".hidden.txt", "no")
    write(tmp_path / "notes.md", "no")
    assert [(item.id, item.text) for item in read_prompts(tmp_path)] == [("a", "one"), ("b", "two")]


def test_a_jsonl_manifest_carries_conditions(tmp_path):
    rows = [
        {"id": "p1", "report": "one", "class": 1, "spacing": [1.5, 1.5, 3], "seed": 0, "site": "A"},
        {"id": 2, "prompt": "two", "class": None},
    ]
    path = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_prompts(path) == [
        PromptItem("p1", "one", 1, (1.5, 1.5, 3.0), 0, {"site": "A"}),
        PromptItem("2", "two"),
    ]


def test_a_csv_manifest_says_the_same(tmp_path):
    path = write(
        tmp_path / "m.csv", 'id,text,class,spacing,seed,site\r\np1,"one, two",YES,1.5x1.5x3,7,A\r\np2,three,,,,\r\n'
    )
    assert read_prompts(path) == [
        PromptItem("p1", "one, two", 1, (1.5, 1.5, 3.0), 7, {"site": "A"}),
        PromptItem("p2", "three", meta={"site": ""}),
    ]


def test_standard_input_is_text_or_json_lines():
    assert read_prompts("-", io.BytesIO(b"Lesion left.\n")) == [PromptItem("stdin", "Lesion left.")]
    lines = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'
    assert [item.id for item in read_prompts("-", io.BytesIO(lines))] == ["a", "b"]


def test_standard_input_is_a_table_where_its_first_line_names_columns(tmp_path):
    table = b'\xef\xbb\xbfid,text,class,site\r\np1,"one,\ntwo",YES,A\r\np2,three,,B\r\n'
    expected = [
        PromptItem("p1", "one,\ntwo", 1, meta={"site": "A"}),
        PromptItem("p2", "three", meta={"site": "B"}),
    ]
    assert read_prompts("-", io.BytesIO(table)) == read_prompts(write(tmp_path / "m.csv", table)) == expected
    assert [item.id for item in read_prompts("-", io.BytesIO(b'"id","report"\na,x\n'))] == ["a"]
    for text in (
        b"Report, id unknown\nLesion left.",
        b"report\nLesion",
        b"id, none\nLesion",
        b"[History] Lesion, left",
    ):
        assert [item.text for item in read_prompts("-", io.BytesIO(text))] == [text.decode()]


@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        (b'[{"id": "a", "text": "x"}]', "Standard input is a JSON array", "jq -c"),
        (b'\n [ {"id": "a", ', "Standard input is a JSON array", "jq -c"),
        (b'["x", "y"]', "Standard input is a JSON array", "jq -c"),
        (b"id\ttext\na\tx\n", "table whose cells are not separated by commas", ".csv"),
        (b"id;report;site\na;x;y\n", "table whose cells are not separated by commas", ".csv"),
        (b"prompt,class\nx,1\n", "standard input, line 2 has no id", "id"),
        (b"id,text\na,x,y\n", "standard input: line 2 does not have as many cells", "Quote cells"),
        (b"id,text\n", "There is no prompt", "at least one"),
    ],
)
def test_other_formats_on_standard_input_are_refused(content, message, remedy):
    with pytest.raises(InputError, match=message) as caught:
        read_prompts("-", io.BytesIO(content))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("prompts.json", "--from FILE.json"), ("a_t2w.JSON", "--from FILE.json"), ("m.tsv", "as .csv"),
        ("m.xlsx", "as .csv"), ("r.rtf", "plain text, .txt"), ("r.docx", "plain text, .txt"),
        ("r.pdf", "plain text, .txt"), ("r.yaml", "end in .txt"),
    ],
)  # fmt: skip
def test_files_of_other_formats_are_refused(tmp_path, name, remedy):
    path = write(tmp_path / name, "Lesion left.")
    with pytest.raises(InputError, match="is no text file by its ending") as caught:
        read_prompts(path)
    assert str(path) in str(caught.value) and remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["report", "report.TXT", "report.md", "report.text"])
def test_text_files_by_other_names(tmp_path, name):
    assert read_prompts(write(tmp_path / name, "Lesion left.")) == [PromptItem("report", "Lesion left.")]


def test_whose_report_it_is_comes_from_a_column_or_an_id_of_picai(tmp_path):
    for name in ("10007_1000007", "report"):
        write(tmp_path / f"{name}.txt", "Lesion")
    assert [item.patient_id for item in read_prompts(tmp_path)] == ["10007", None]
    rows = [{"id": "10007_1000007", "patient_id": "P"}, {"id": "a", "patient_id": 0}, {"id": "b", "patient_id": ""}]
    lines = "\n".join(json.dumps({"text": "Lesion", **row}) for row in rows)
    items = read_prompts("-", io.BytesIO(lines.encode()))
    assert [item.patient_id for item in items] == ["P", "0", None] and all(not item.meta for item in items)
    assert [item.origin for item in expand_seeds(items[1:], [3, 4])] == [
        {"patient_id": patient, "prompt_id": name} for patient, name in (("0", "a"), ("0", "a"), ("b", "b"), ("b", "b"))
    ]
    # What was sampled keeps its origin when it is a prompt itself.
    record = {"schema": "ccella.record/1", "id": "a_s3", "prompt": "Lesion", "patient_id": "0", "prompt_id": "a"}
    (again,) = expand_seeds(read_prompts("-", io.BytesIO(json.dumps(record).encode())), [5])
    assert again.origin == {"patient_id": "0", "prompt_id": "a"}


def test_records_of_another_command_give_one_prompt_per_item():
    base = {"schema": "ccella.record/1", "kind": "volume", "id": "a", "prompt": "one", "synthetic": True, "class": 1}
    base |= {"conditions": {"class": None}, "seed": 3, "spacing_mm": [2, 2, 4]}
    lines = "\n".join(json.dumps({**base, "path": f"a/a_{c}.nii.gz", "channel": c}) for c in ("t2w", "hbv"))
    (item,) = read_prompts("-", io.BytesIO(lines.encode()))
    # The class of a sampled volume was predicted: only a chosen one is a condition.
    assert item == PromptItem("a", "one", None, (2.0, 2.0, 4.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n\t ", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"PK\x03\x04\x00\x00", "is binary"),
        (b"caf\xe9 latt\xe9", "not UTF-8 text: byte 3"),
        (b"x" * 1_000_001, "has 1000001 bytes"),
    ],
)
def test_unusable_text_is_named(tmp_path, content, message):
    path = write(tmp_path / "report.txt", content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "line 1 has no id"),
        ({"id": "a"}, "line 1 has no prompt"),
        ({"id": "a", "text": "  "}, "has no prompt|is empty"),
        ({"id": "a", "text": "x\x00y"}, "is binary"),
        ({"id": "../a", "text": "x"}, "holds a path separator"),
        ({"id": "a\\b", "text": "x"}, "holds a path separator"),
        ({"id": "a..b", "text": "x"}, "holds '..'"),
        ({"id": "a", "text": "x", "report": "y"}, "has both 'text' and 'report'"),
        ({"id": "a", "text": "x", "class": "maybe"}, "class 'maybe'"),
        ({"id": "a", "text": "x", "spacing": "1x-2"}, "not a list of positive mm"),
        ({"id": "a", "text": "x", "spacing": [1, float("inf")]}, "not a list of positive mm"),
        ({"id": "a", "text": "x", "seed": -1}, "seed -1"),
        ({"id": "a", "text": "x", "seed": 1.5}, "seed 1.5"),
        ({"id": "a", "text": "x", "seed": True}, "seed True"),
        ([1], "not a JSON object"),
    ],
)
def test_unusable_rows_are_named(tmp_path, row, message):
    path = write(tmp_path / "m.jsonl", json.dumps(row))
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_a_folder_holds_texts_of_any_case(tmp_path):
    for name in ("b.txt", "A.TXT", "c.text", "README.md", ".hidden.txt"):
        write(tmp_path / name, f"Report {name}.")
    assert [item.id for item in read_prompts(tmp_path)] == ["A", "b", "c"]


def test_a_manifest_with_other_separators_is_told_so(tmp_path):
    with pytest.raises(InputError, match=r"cells of .*m.csv are not separated by commas"):
        read_prompts(write(tmp_path / "m.csv", "id;prompt\na;Normal\n"))


def test_a_seed_beyond_the_limit_names_the_limit(tmp_path):
    row = json.dumps({"id": "a", "prompt": "Normal", "seed": 2**63})
    with pytest.raises(InputError, match=r"from 0 to 2\^63 - 1"):
        read_prompts(write(tmp_path / "m.jsonl", row))


def test_missing_and_ambiguous_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"has no .txt file"):
        read_prompts(tmp_path)
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_prompts(write(tmp_path / "m.jsonl", '{"id": "a", "text": "x"}\n{"id"'))
    with pytest.raises(InputError, match=r"There is no prompt in .*e\.jsonl"):
        read_prompts(write(tmp_path / "e.jsonl", "\n"))
    twice = '{"id": "A", "text": "x"}\n{"id": "a", "text": "y"}'
    with pytest.raises(InputError, match="'A' and 'a' are the same"):
        read_prompts(write(tmp_path / "t.jsonl", twice))


def test_seeds_come_from_the_command_then_the_manifest_then_the_id():
    items = [PromptItem("a", "x"), PromptItem("b", "y", seed=0)]
    assert [(i.id, i.seed) for i in expand_seeds(items, None)] == [("a", seed_from_id("a")), ("b", 0)]
    assert [(i.id, i.seed) for i in expand_seeds(items, (0,))] == [("a", 0), ("b", 0)]
    expanded = [(i.id, i.seed) for i in expand_seeds(items, (0, 5))]
    assert expanded == [("a_s0", 0), ("a_s5", 5), ("b_s0", 0), ("b_s5", 5)]


def test_ids_that_collide_once_the_seed_is_added_are_refused():
    with pytest.raises(InputError, match="'a_s1' and 'A_s1' are the same"):
        expand_seeds([PromptItem("a", "x"), PromptItem("A", "y")], (1, 2))


@pytest.mark.parametrize(
    ("column", "meant"),
    [("calss", "class"), ("Class", "class"), ("spacing_cm", "spacing_mm"), ("Seed", "seed"), ("patient", "patient_id")],
)
def test_a_column_spelt_almost_as_a_known_one_is_told(column, meant):
    assert near_columns([column]) == {column: meant}


def test_columns_of_another_meaning_are_not_told():
    assert near_columns(["id", "class", "site", "age", "prompt_id", "class_source", "report_path", "score"]) == {}

"""Seed lists and shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccella.imaging.errors import InputError
from ccella.pipeline.seeds import Shard, parse_seeds, parse_shard


def test_list_of_seeds_and_ranges():
    assert parse_seeds("0-3,40") == (0, 1, 2, 3, 40)
    assert parse_seeds(" 7 , 2 - 3") == (7, 2, 3)
    assert parse_seeds("0") == (0,)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1", "3-", "1.5", "1-2-3", "٣"])
def test_what_is_no_list_of_seeds_is_named(text):
    with pytest.raises(InputError, match="neither a whole number nor a range") as caught:
        parse_seeds(text)
    assert "0-15,40" in caught.value.remedy


def test_backwards_repeated_and_endless_lists():
    with pytest.raises(InputError, match="'5-3' runs backwards") as caught:
        parse_seeds("5-3")
    assert caught.value.remedy == "Write 3-5."
    with pytest.raises(InputError, match="Seed 2 occurs twice"):
        parse_seeds("0-4,2")
    with pytest.raises(InputError, match="more than 1000000 seeds"):
        parse_seeds("0-99999999999")
    with pytest.raises(InputError, match="is above"):
        parse_seeds(str(2**63))


@given(st.integers(0, 200), st.integers(1, 40))
def test_shards_joined_in_order_are_the_input(length, count):
    items = list(range(length))
    blocks = [Shard(i, count).select(items) for i in range(1, count + 1)]
    assert [item for block in blocks for item in block] == items
    sizes = {len(block) for block in blocks}
    assert max(sizes) - min(sizes) <= 1


def test_shard_grammar():
    assert parse_shard("2/3") == Shard(2, 3)
    assert parse_shard("2/3").suffix == "-2-of-3"
    for text in ("2", "a/3", "2/3/4", "-1/3", ""):
        with pytest.raises(InputError, match="not of the form i/n"):
            parse_shard(text)
    for text in ("0/3", "4/3", "1/0"):
        with pytest.raises(InputError, match="does not exist"):
            parse_shard(text)

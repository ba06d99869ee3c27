import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccella.diffusion.timesteps import SPACINGS, check_table, timestep_table


def test_golden_tables():
    assert timestep_table(1000, 10, "trailing") == (999, 899, 799, 699, 599, 499, 399, 299, 199, 99)
    assert timestep_table(1000, 10, "leading") == (900, 800, 700, 600, 500, 400, 300, 200, 100, 0)
    # 999 k^2 / 81 for k = 9 .. 0
    assert timestep_table(1000, 10, "quadratic") == (999, 789, 604, 444, 308, 197, 111, 49, 12, 0)
    # (sqrt(44) + (sqrt(999) - sqrt(44)) k / 7)^2 for k = 7 .. 0
    assert timestep_table(1000, 8, "quadratic", last=44) == (999, 786, 599, 437, 301, 190, 104, 44)
    assert timestep_table(1000, 3, "trailing") == (999, 666, 332)
    assert timestep_table(1000, 1, "trailing") == (999,)
    assert timestep_table(1000, 1, "quadratic") == (999,)
    assert timestep_table(1000, 1, "leading") == (0,)
    assert timestep_table(1000, 20) == timestep_table(1000, 20, "trailing")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_the_whole_chain(spacing):
    assert timestep_table(1000, 1000, spacing) == tuple(range(999, -1, -1))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_table_is_valid_and_has_its_length(data):
    train = data.draw(st.integers(1, 1200))
    steps = data.draw(st.integers(1, train))
    spacing = data.draw(st.sampled_from(SPACINGS))
    table = timestep_table(train, steps, spacing)
    assert len(table) == steps
    assert check_table(table, train) == table
    if spacing != "leading":
        assert table[0] == train - 1
    if spacing == "leading" or (spacing == "quadratic" and steps > 1):
        assert table[-1] == 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_quadratic_table_ends_where_it_is_told(data):
    train = data.draw(st.integers(2, 1200))
    last = data.draw(st.integers(0, train - 2))
    steps = data.draw(st.integers(2, train - last))
    table = timestep_table(train, steps, "quadratic", last)
    assert check_table(table, train) == table
    assert (table[0], table[-1], len(table)) == (train - 1, last, steps)
    if steps == train - last:
        assert table == tuple(range(train - 1, last - 1, -1))


def test_an_end_without_room_or_meaning_is_refused():
    with pytest.raises(ValueError, match="between 1 and 956 with timesteps of 44 and above, got 957"):
        timestep_table(1000, 957, "quadratic", 44)
    with pytest.raises(ValueError, match="'trailing' does not end"):
        timestep_table(1000, 10, "trailing", 44)


@pytest.mark.parametrize("steps", [20, 50, 100, 250])
def test_even_tables_match_float_arithmetic(steps):
    trailing = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
    assert timestep_table(1000, steps, "trailing") == tuple(trailing)
    assert timestep_table(1000, steps, "leading") == tuple(np.arange(steps)[::-1] * (1000 // steps))


@pytest.mark.parametrize(("train", "steps"), [(1000, 0), (1000, 1001), (1000, -5), (0, 1)])
def test_impossible_numbers_of_steps_are_refused(train, steps):
    with pytest.raises(ValueError, match=f"got {steps}"):
        timestep_table(train, steps)


def test_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="'even' is unknown"):
        timestep_table(1000, 10, "even")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "at least one"),
        ([5, 5], "strictly descending, got 5, 5"),
        ([1, 2], "strictly descending"),
        ([1000, 3], r"within 0 \.\. 999, got 1000, 3"),
        ([3, -1], "within"),
        (list(range(100)), r"0, 1, 2, 3, 4, 5, \.\.\. , 97, 98, 99"),
    ],
)
def test_wrong_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        check_table(table, 1000)

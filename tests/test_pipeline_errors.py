"""Failures of single items."""

import pytest

from ccella.imaging.errors import InputError
from ccella.pipeline.errors import FailureLog, ItemsFailedError


def test_failures_end_as_the_input_error_or_as_a_list():
    def log(*errors, total):
        found = FailureLog()
        found.total = total
        for number, error in enumerate(errors):
            found.add(f"i{number}", error)
        return found

    log(total=2).finish()
    with pytest.raises(InputError, match=r"^i0: too short\.$") as alone:
        log(InputError("too short.", "Lengthen it."), total=1).finish()
    assert alone.value.remedy == "Lengthen it."
    with pytest.raises(InputError, match="None of the 2 items can be used; the first, i0: a"):
        log(InputError("a", "r"), InputError("b", "r"), total=2).finish()
    with pytest.raises(ItemsFailedError, match="1 of 3 items failed: i0: a") as some:
        log(InputError("a", "r"), total=3).finish()
    assert [failure.id for failure in some.value.failures] == ["i0"]
    with pytest.raises(ItemsFailedError):
        log(ArithmeticError("overflow"), total=1).finish()

from hypothesis import given
from hypothesis import strategies as st

from worker.core.uses.item_ranges import format_ranges, parse_ranges


@given(st.sets(st.integers(0, 50)))
def test_ranges_have_the_numbers_that_were_formatted(items: set[int]) -> None:
    assert parse_ranges(format_ranges(items)) == sorted(items)


def test_adjacent_numbers_become_one_range() -> None:
    assert format_ranges([9, 0, 1, 2, 4]) == "0-2,4,9"


def test_no_numbers_are_no_text() -> None:
    assert (format_ranges([]), parse_ranges("")) == ("", [])

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from worker.core.uses.item_ranges import format_items, parse_items
from worker.core.uses.settlement import settle_chunk
from worker.core.uses.used_grant import UsedGrant

ISSUED = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
RESERVED = 100
ITEMS = range(6)
item_sets = st.sets(st.sampled_from(ITEMS))
sizes = st.integers(0, 3 * RESERVED) | st.integers()  # the latter are nonsense that storage told


def grants(*numbers: int, end: str = "") -> list[UsedGrant]:
    return [
        UsedGrant(
            tenant="acme",
            batch_number=1,
            batch_id="0199a000-0000-7000-8000-000000000001",
            chunk_number=0,
            item_number=number,
            kind="upload",
            bucket="demo",
            real_buckets=frozenset({"real"}),
            object_key=f"acme/{number}{end}",
            issued_at=ISSUED,
            expires_in=300,
            terms={"max_size": RESERVED},
            detail={},
        )
        for number in numbers
    ]


def test_an_item_that_stored_nothing_returns_all_of_its_reservation() -> None:
    assert settle_chunk(grants(0), {}, (), RESERVED) == ([0], 0, RESERVED)


def test_an_item_that_stored_less_than_it_may_returns_the_rest() -> None:
    assert settle_chunk(grants(0), {0: 30}, (), RESERVED) == ([], 30, 70)


def test_an_item_of_which_nobody_can_tell_returns_nothing() -> None:
    assert settle_chunk(grants(0), {}, {0}, RESERVED) == ([], 0, 0)


def test_an_item_of_which_a_source_told_meanwhile_returns_the_rest() -> None:
    assert settle_chunk(grants(0), {0: 30}, {0}, RESERVED) == ([], 30, 70)


def test_a_form_whose_client_chooses_the_names_returns_nothing() -> None:
    free = grants(0, end="/${filename}")
    assert settle_chunk(free, {}, (), RESERVED) == ([], 0, 0)
    assert settle_chunk(free, {0: 30}, (), RESERVED) == ([], 30, 0)


def test_an_item_whose_size_no_source_told_returns_nothing() -> None:
    assert settle_chunk(grants(0), {0: None}, (), RESERVED) == ([], 0, 0)


def test_what_an_aborted_upload_returned_is_not_returned_again() -> None:
    assert settle_chunk(grants(0, 1), {1: RESERVED}, (), RESERVED).returned_bytes == 0


@given(
    stored=st.dictionaries(st.sampled_from(ITEMS), st.none() | sizes),
    unclear=item_sets,
    returned=item_sets,
)
def test_a_chunk_never_returns_more_than_it_has_reserved_and_never_what_was_stored(
    stored: dict[int, int | None], unclear: set[int], returned: set[int]
) -> None:
    reserved = RESERVED * (len(ITEMS) - len(returned))
    settled = settle_chunk(grants(*ITEMS), stored, unclear, reserved)
    kept = sum(min(max(size, 0), RESERVED) for size in stored.values() if size is not None)
    assert 0 <= settled.used_bytes < 2**63
    assert 0 <= settled.returned_bytes <= max(reserved - kept, 0)
    assert not {*settled.unused} & {*stored, *unclear}


@given(st.sets(st.integers(0, 200)))
def test_numbers_of_items_are_read_as_they_were_written(numbers: set[int]) -> None:
    assert [n for part in parse_items(format_items(numbers)) for n in part] == sorted(numbers)


def test_numbers_in_a_row_are_written_as_a_range() -> None:
    assert format_items([9, 0, 1, 2, 5, 4]) == "0-2,4-5,9"

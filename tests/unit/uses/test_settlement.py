from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.uses.used_grants import used_grant
from worker.audit.grant_states import GrantState, StateFacts, grant_state
from worker.shared.pages import format_items, parse_items
from worker.uses.use_reports import UsedGrant
from worker.uses.use_rules import settle_chunk

RESERVED = 100
ITEMS = range(6)
item_sets = st.sets(st.sampled_from(ITEMS))
sizes = st.integers(0, 3 * RESERVED) | st.integers()  # the latter are nonsense that storage told


def grants(*numbers: int, end: str = "") -> list[UsedGrant]:
    terms = {"max_size": RESERVED}
    return [used_grant(item_number=n, object_key=f"acme/{n}{end}", terms=terms) for n in numbers]


FREE_NAME = "/${filename}"


@pytest.mark.parametrize(
    ("end", "stored", "unclear", "expected"),
    [
        pytest.param("", {}, (), ([0], 0, RESERVED), id="nothing stored: all of it"),
        pytest.param("", {0: 30}, (), ([], 30, 70), id="less stored: the rest"),
        pytest.param("", {}, {0}, ([], 0, 0), id="nobody can tell: nothing"),
        pytest.param("", {0: 30}, {0}, ([], 30, 0), id="may have stored more: nothing"),
        pytest.param("", {0: None}, (), ([], 0, 0), id="no source told the size: nothing"),
        pytest.param(FREE_NAME, {}, (), ([], 0, 0), id="free names, nothing stored: nothing"),
        pytest.param(FREE_NAME, {0: 30}, (), ([], 30, 0), id="free names: nothing"),
    ],
)
def test_an_item_returns_what_it_reserved_and_cannot_use_any_more(
    end: str,
    stored: dict[int, int | None],
    unclear: Collection[int],
    expected: tuple[list[int], int, int],
) -> None:
    assert settle_chunk(grants(0, end=end), stored, unclear, RESERVED) == expected


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


END = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
BEFORE, AFTER = END - timedelta(seconds=1), END


STORED = {"stored_verdict": "as_granted", "is_settled": True}


@pytest.mark.parametrize(
    ("now", "kind", "facts", "expected"),
    [
        pytest.param(BEFORE, "put", {}, "open", id="open until its end"),
        pytest.param(BEFORE, "put", {"is_settled": True}, "open", id="open until its end, settled"),
        pytest.param(AFTER, "put", {}, "unknown", id="unknown before storage was asked"),
        pytest.param(AFTER, "put", {"is_settled": True}, "unused", id="unused once it was"),
        pytest.param(AFTER, "download", {"is_settled": True}, "unknown", id="no log of downloads"),
        pytest.param(BEFORE, "download", {"downloads": 1}, "used", id="downloaded"),
        pytest.param(AFTER, "download", {"downloads": 1}, "used", id="downloaded, ended"),
        pytest.param(AFTER, "put", STORED, "used", id="stored as granted"),
        pytest.param(AFTER, "put", STORED | {"stored_verdict": "late"}, "late", id="stored late"),
        pytest.param(AFTER, "put", STORED | {"is_replaced": True}, "overwritten", id="overwritten"),
    ],
)
def test_the_state_of_a_grant_follows_from_its_uses(
    now: datetime, kind: str, facts: dict[str, Any], expected: GrantState
) -> None:
    assert grant_state(StateFacts(kind, END, **facts), now) == expected

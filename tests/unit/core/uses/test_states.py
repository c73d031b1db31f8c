from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.uses.states import GrantState, StateFacts, grant_state

END = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
BEFORE, AFTER = END - timedelta(seconds=1), END
KINDS = st.sampled_from(["download", "upload", "put", "multipart"])


def state(now: datetime, kind: str = "put", **facts: Any) -> GrantState:
    return grant_state(StateFacts(kind, END, **facts), now)


def test_a_grant_is_open_until_its_end() -> None:
    assert state(BEFORE) == "open"
    assert state(BEFORE, is_settled=True) == "open"


def test_a_slot_is_unused_once_storage_was_asked_and_unknown_before() -> None:
    assert state(AFTER) == "unknown"
    assert state(AFTER, is_settled=True) == "unused"


def test_a_download_without_a_log_is_unknown_after_its_end() -> None:
    assert state(AFTER, "download", is_settled=True) == "unknown"


@pytest.mark.parametrize("now", [BEFORE, AFTER])
def test_a_downloaded_grant_is_used(now: datetime) -> None:
    assert state(now, "download", downloads=1) == "used"


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("as_granted", "used"), ("late", "late"), ("mismatched", "mismatched")],
)
def test_a_slot_with_an_object_has_the_state_of_its_verdict(verdict: Any, expected: str) -> None:
    assert state(AFTER, stored_verdict=verdict, is_settled=True) == expected


def test_a_slot_whose_key_another_grant_stored_later_is_overwritten() -> None:
    assert state(AFTER, stored_verdict="as_granted", is_replaced=True) == "overwritten"


@given(st.builds(StateFacts, KINDS, st.just(END), st.none()))
def test_only_a_stored_object_can_be_overwritten(facts: StateFacts) -> None:
    assert grant_state(facts, AFTER) != "overwritten"

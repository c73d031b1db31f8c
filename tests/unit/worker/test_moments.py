from datetime import UTC, datetime, timedelta

import pytest

from worker.commands.moments import parse_moment

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2h", "2h ago", "120m", "7200s ago", " 2 h "])
def test_a_duration_is_counted_back_from_now(text: str) -> None:
    assert parse_moment(text, NOW) == NOW - timedelta(hours=2)


def test_a_date_is_its_first_moment_in_utc() -> None:
    assert parse_moment("2026-11-24", NOW) == NOW.replace(hour=0, minute=0)


def test_a_time_with_a_zone_is_read_in_that_zone() -> None:
    assert parse_moment("2026-11-24T08:30+02:00", NOW) == NOW.replace(hour=6)


@pytest.mark.parametrize("text", ["", "someday", "2", "2y", "-2h", "2026-13-01", "999999999d"])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration before now"):
        parse_moment(text, NOW)

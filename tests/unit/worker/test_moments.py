from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.commands.moments import parse_moment, parse_zone

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)  # a Tuesday
BERLIN = ZoneInfo("Europe/Berlin")
DAYS = {
    "now": NOW,
    "today": "2026-11-24",
    "yesterday": "2026-11-23",
    "Yesterday": "2026-11-23",
    "tuesday": "2026-11-24",
    "monday": "2026-11-23",
    "wednesday": "2026-11-18",
    "this week": "2026-11-23",
    "last week": "2026-11-16",
    "this month": "2026-11-01",
    "last  month": "2026-10-01",
    "2026-02": "2026-02-01",
    "this year": "2026-01-01",
    "last year": "2025-01-01",
}


@pytest.mark.parametrize("text", ["2h", "2h ago", "120m", "7200s ago", " 2 h ", "2 hours ago"])
def test_a_duration_is_counted_back_from_now(text: str) -> None:
    assert parse_moment(text, NOW) == NOW - timedelta(hours=2)


@pytest.mark.parametrize("text", ["14d", "14 days ago", "2w", "2 weeks ago", "1 week ago"])
def test_days_and_weeks_are_counted_back_from_now(text: str) -> None:
    assert parse_moment(text, NOW) == NOW - timedelta(days=7 if text == "1 week ago" else 14)


@pytest.mark.parametrize("text", DAYS)
def test_the_name_of_a_day_or_month_is_its_first_moment(text: str) -> None:
    expected = DAYS[text]
    if isinstance(expected, str):
        expected = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert parse_moment(text, NOW) == expected


def test_the_last_month_of_january_is_december_of_the_year_before() -> None:
    january = datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_moment("last month", january) == datetime(2025, 12, 1, tzinfo=UTC)


def test_a_date_is_its_first_moment_in_utc() -> None:
    assert parse_moment("2026-11-24", NOW) == NOW.replace(hour=0, minute=0)


def test_a_time_with_a_zone_is_read_in_that_zone() -> None:
    assert parse_moment("2026-11-24T08:30+02:00", NOW, BERLIN) == NOW.replace(hour=6)


def test_a_time_without_a_zone_is_read_in_the_given_zone() -> None:
    assert parse_moment("2026-11-24T08:30", NOW, BERLIN) == NOW.replace(hour=7)
    assert parse_moment("2026-07-24T08:30", NOW, BERLIN) == datetime(2026, 7, 24, 6, 30, tzinfo=UTC)


def test_today_is_the_day_of_the_given_zone() -> None:
    tokyo = parse_zone("Asia/Tokyo")
    late = NOW.replace(hour=20)  # the next day in Tokyo
    assert parse_moment("today", late, tokyo) == NOW.replace(hour=15, minute=0)


def test_a_time_that_clocks_show_twice_is_the_first_of_the_two() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse_moment("2026-10-25T02:30", NOW, BERLIN) == first
    assert parse_moment("2026-10-25T02:30+01:00", NOW, BERLIN) == first + timedelta(hours=1)


@pytest.mark.parametrize("text", ["2026-03-29T02:00", "2026-03-29T02:30", "2026-03-29T02:59:59"])
def test_a_time_that_clocks_skip_is_the_moment_of_the_change(text: str) -> None:
    assert parse_moment(text, NOW, BERLIN) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_the_times_around_a_change_are_not_moved() -> None:
    before, after = "2026-03-29T01:59:59", "2026-03-29T03:00"
    assert parse_moment(before, NOW, BERLIN) == datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    assert parse_moment(after, NOW, BERLIN) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_a_day_whose_midnight_is_skipped_begins_at_its_first_moment() -> None:
    beirut = parse_zone("Asia/Beirut")  # 2026-03-29 begins at 01:00
    assert parse_moment("2026-03-29", NOW, beirut) == datetime(2026, 3, 28, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "someday", "2", "2y", "-2h", "2026-13-01", "2026-13", "999999999d", "9999999999w"]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration before now"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
    ],
)
def test_an_unknown_zone_is_refused_with_a_similar_one(name: str, similar: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {similar}"):
        parse_zone(name)


@pytest.mark.parametrize("name", ["", "../etc/passwd", "/etc/passwd", "Europe", "xyzzy", "a\0b"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        parse_zone(name)

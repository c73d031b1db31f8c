from datetime import UTC, datetime, timedelta

import pytest

from worker.shared.command_options import parse_moment, parse_zone

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)  # a Tuesday
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
    "2026-11-24": "2026-11-24",
}
# Moments in a zone, and in UTC.
MOMENTS = [
    ("2026-11-24T08:30+02:00", "Europe/Berlin", "2026-11-24T06:30"),  # its own zone
    ("2026-11-24T08:30", "Europe/Berlin", "2026-11-24T07:30"),
    ("2026-07-24T08:30", "Europe/Berlin", "2026-07-24T06:30"),
    ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30"),  # the first of two
    ("2026-10-25T02:30+01:00", "Europe/Berlin", "2026-10-25T01:30"),
    ("2026-03-29T01:59:59", "Europe/Berlin", "2026-03-29T00:59:59"),
    ("2026-03-29T02:00", "Europe/Berlin", "2026-03-29T01:00"),  # clocks skip it
    ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00"),
    ("2026-03-29T02:59:59", "Europe/Berlin", "2026-03-29T01:00"),
    ("2026-03-29T03:00", "Europe/Berlin", "2026-03-29T01:00"),
    ("2026-03-29", "Asia/Beirut", "2026-03-28T22:00"),  # a day that begins at 01:00
    ("today", "Asia/Tokyo", "2026-11-24T15:00"),
]


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


@pytest.mark.parametrize(("text", "zone", "expected"), MOMENTS)
def test_a_moment_is_read_in_its_zone(text: str, zone: str, expected: str) -> None:
    late = NOW.replace(hour=20)  # the next day in Tokyo
    utc = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert parse_moment(text, late, parse_zone(zone)) == utc


@pytest.mark.parametrize(
    "text",
    [
        *("", "someday", "2", "2y", "-2h", "2026-13-01", "2026-13", "999999999d", "9999999999w"),
        *("0001-01-01", "9999-12-31"),
    ],
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

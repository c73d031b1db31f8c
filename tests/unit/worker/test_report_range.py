from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.audit_report.figures import PeriodUnit, Scope
from worker.usecases.audit.report_range import UnusableRange, choose_unit, period_names

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("days", "unit"),
    [(1, "hour"), (3, "hour"), (4, "day"), (92, "day"), (94, "month"), (7_000, "month")],
)
def test_the_unit_depends_on_the_length_of_the_range(days: int, unit: PeriodUnit) -> None:
    assert choose_unit(NOON - timedelta(days=days), NOON) == unit


@pytest.mark.parametrize("days", [0, -1, 366 * 20 + 1, 366 * 1_000])
def test_a_range_that_is_empty_or_too_long_is_refused(days: int) -> None:
    with pytest.raises(UnusableRange):
        choose_unit(NOON - timedelta(days=days), NOON)


def names(since: datetime, until: datetime, unit: PeriodUnit) -> list[str]:
    return period_names(Scope(since=since, until=until, zone=BERLIN, unit=unit))


def test_the_hour_that_clocks_show_twice_is_two_periods() -> None:
    since = datetime(2026, 10, 24, 23, tzinfo=UTC)
    assert names(since, since + timedelta(hours=3, microseconds=1), "hour") == [
        "2026-10-25T01:00+02:00",
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]


def test_days_of_23_and_25_hours_are_one_period_each() -> None:
    for month, day in ((3, 28), (10, 24)):
        since = datetime(2026, month, day, tzinfo=BERLIN)
        until = datetime(2026, month, day + 3, tzinfo=BERLIN)
        assert names(since, until, "day") == [f"2026-{month:02}-{day + n}" for n in range(3)]


def test_the_end_of_a_range_is_not_in_it() -> None:
    since, until = datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2026, 3, 1, tzinfo=BERLIN)
    assert names(since, until, "month") == ["2026-01", "2026-02"]
    assert names(since, until + timedelta(seconds=1), "month") == ["2026-01", "2026-02", "2026-03"]

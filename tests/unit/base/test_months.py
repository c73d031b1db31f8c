from datetime import UTC, datetime, timedelta, timezone

import pytest

from worker.base import month_partitions
from worker.shared import months


def test_a_moment_belongs_to_its_month_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    assert month_partitions.month_of(datetime(2027, 1, 1, 1, 59, tzinfo=zone)) == 202612
    assert month_partitions.month_of(datetime(2027, 1, 1, 2, tzinfo=zone)) == 202701


@pytest.mark.parametrize(
    ("month", "number", "result"),
    [(202611, 1, 202612), (202612, 1, 202701), (202701, -1, 202612), (202611, 26, 202901)],
)
def test_months_are_added_across_years(month: int, number: int, result: int) -> None:
    assert month_partitions.add_months(month, number) == result


def test_a_month_is_read_as_it_is_written() -> None:
    assert months.parse_month(months.format_month(202601)) == 202601
    assert months.first_moment(202601) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026-00", "2026-13", "2026-1", "202601", "0000-01", "\uff12026-1"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a month"):
        months.parse_month(text)

"""Months in UTC, as numbers like 202611: they order like time, and name partitions."""

import re
from datetime import UTC, datetime

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII).fullmatch
_MONTHS_A_YEAR = 12


def month_of(moment: datetime) -> int:
    """Return the month of a moment."""
    utc = moment.astimezone(UTC)
    return utc.year * 100 + utc.month


def add_months(month: int, number: int) -> int:
    """Return the month that is a number of months after another one, or before it."""
    months = month // 100 * _MONTHS_A_YEAR + month % 100 - 1 + number
    years, index = divmod(months, _MONTHS_A_YEAR)
    return years * 100 + index + 1


def first_moment(month: int) -> datetime:
    """Return the moment at which a month begins."""
    return datetime(month // 100, month % 100, 1, tzinfo=UTC)


def format_month(month: int) -> str:
    """Return a month like 2026-11."""
    return f"{month // 100:04}-{month % 100:02}"


def parse_month(text: str) -> int:
    """Parse a month like 2026-11. Raises ValueError."""
    match = _MONTH(text)
    if match is None or match[1] == "0000":
        raise ValueError("expected a month such as 2026-01")
    return int(match[1]) * 100 + int(match[2])

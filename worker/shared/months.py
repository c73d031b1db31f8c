"""Months as operators write them."""

import re
from datetime import UTC, datetime

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII).fullmatch


def first_moment(month: int) -> datetime:
    """Return the time at which a month begins."""
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

"""What people write for amounts and moments, read into what is computed with."""

import re
from datetime import UTC, datetime, timedelta

from valetkey.sizes import parse_duration

_AGO = re.compile(r"([0-9]+ ?[smhd])( ago)?").fullmatch


def moment(text: str, now: datetime) -> datetime:
    """The moment meant by `2h`, `2d ago`, `2026-11-24` or `2026-11-24T08:30:00+01:00`.

    A date is its first moment, and what names no time zone is in UTC. Raises ValueError.
    """
    ago = _AGO(text.strip())
    try:
        if ago:
            return now - timedelta(seconds=parse_duration(ago[1]))
        read = datetime.fromisoformat(text.strip())
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a moment is 2h, 2d ago, 2026-11-24 or 2026-11-24T08:30") from None

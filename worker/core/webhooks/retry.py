"""When a delivery is tried again.

The shape is the example schedule of Standard Webhooks 1.0.0: quick at first, for a restart, then
slower, so that an endpoint may be down for more than two days and still miss nothing.
"""

import re
from datetime import timedelta
from email.utils import parsedate_to_datetime

SCHEDULE = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=20),
    timedelta(hours=24),
)
MAX_DELAY = timedelta(hours=24)
JITTER = 0.2

# Nine digits are 31 years: far over any cap, far under what timedelta can hold.
_SECONDS = re.compile(r"[0-9]{1,9}")


def retry_delay(attempt: int, jitter: float) -> timedelta | None:
    """How long to wait before the next attempt, or None when all attempts are used up.

    `attempt` counts the attempts already made, from 0; `jitter`, from 0 up to but not 1, places the
    delay within ±20 % of the schedule, so that what failed together does not return together.
    """
    if attempt >= len(SCHEDULE):
        return None
    return SCHEDULE[attempt] * (1 - JITTER + 2 * JITTER * jitter)


def next_retry_delay(
    attempt: int, jitter: float, retry_after: timedelta | None
) -> timedelta | None:
    """The later of our schedule and the endpoint's own wish, never more than 24 hours."""
    planned = retry_delay(attempt, jitter)
    if planned is None:
        return None
    return min(max(planned, retry_after or timedelta(0)), MAX_DELAY)


def parse_retry_after(retry_after: str | None, date: str | None) -> timedelta | None:
    """What a Retry-After header asks for, or None when absent or unreadable (RFC 9110, 10.2.3).

    `date` is the Date header of the same response: a wish given as a date is measured from it,
    which needs no clock here and forgives a wrong one there.
    """
    if retry_after is None:
        return None
    if _SECONDS.fullmatch(retry_after):
        return timedelta(seconds=int(retry_after))
    try:
        return parsedate_to_datetime(retry_after) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError):  # TypeError: only one of the two names its zone
        return None

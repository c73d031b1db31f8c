"""The retry schedule of webhook deliveries.

It follows the example schedule of Standard Webhooks 1.0.0. The first retries come quickly, for an
endpoint that restarts. Later ones are slower, so an endpoint can be down for more than two days
without losing a webhook.
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

# Nine digits of seconds are 31 years: longer than MAX_DELAY, and within timedelta's range.
_SECONDS = re.compile(r"[0-9]{1,9}")


def retry_delay(attempts: int, jitter: float) -> timedelta | None:
    """Return the delay before the next attempt, or None if no attempts are left.

    `attempts` is the number of attempts already made, from 0. `jitter`, 0 <= jitter < 1, moves the
    delay by up to 20 % in either direction, so that deliveries that failed together are not retried
    together.
    """
    if attempts >= len(SCHEDULE):
        return None
    return SCHEDULE[attempts] * (1 - JITTER + 2 * JITTER * jitter)


def next_retry_delay(
    attempts: int, jitter: float, retry_after: timedelta | None
) -> timedelta | None:
    """Return the longer of the schedule's delay and the endpoint's Retry-After, 24 hours at most.

    Returns None if no attempts are left. For `attempts` and `jitter` see `retry_delay`.
    """
    delay = retry_delay(attempts, jitter)
    if delay is None:
        return None
    return min(max(delay, retry_after or timedelta(0)), MAX_DELAY)


def parse_retry_after(retry_after: str | None, date: str | None) -> timedelta | None:
    """Parse a Retry-After header (RFC 9110, 10.2.3). Returns None if it is absent or invalid.

    `date` is the Date header of the same response. A Retry-After that is a date is measured from
    it, so the result depends neither on the local clock nor on a wrong clock at the endpoint.
    """
    if retry_after is None:
        return None
    if _SECONDS.fullmatch(retry_after):
        return timedelta(seconds=int(retry_after))
    try:
        return parsedate_to_datetime(retry_after) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        # TypeError: only one of the two has a time zone. OverflowError: a number is too large.
        return None

"""The retry schedule of webhook deliveries.

It follows the example schedule of Standard Webhooks 1.0.0. The first retries come quickly, for an
endpoint that restarts. Later ones are slower, so an endpoint can be down for more than two days
without losing a webhook.
"""

from datetime import timedelta

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

"""The rules of webhooks: retries and circuit breakers.

The schedule follows the example of Standard Webhooks. The first retries come quickly, for an
endpoint that restarts. Later ones are slower, so an endpoint can be down for more than two days
without losing a webhook.

A failure is an attempt without a response, or with a response of 500 or higher. While a circuit is
open, no delivery to its endpoint is attempted, and no attempt is used up. After the pause, one
delivery probes the endpoint: any other response closes the circuit, and another failure opens it
for a longer pause.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

RETRY_SCHEDULE = (
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
MAX_RETRY_DELAY = timedelta(hours=24)
RETRY_JITTER = 0.2


def retry_delay(
    attempts: int, jitter: float, retry_after: timedelta | None = None
) -> timedelta | None:
    """Return the delay before the next attempt, or None if no attempts are left.

    It is the longer of the schedule's delay and the endpoint's Retry-After, 24 hours at most.
    `attempts` is the number of attempts already made, from 0. `jitter`, 0 <= jitter < 1, moves the
    schedule's delay by up to 20 % in either direction, so that deliveries that failed together are
    not retried together.
    """
    if attempts >= len(RETRY_SCHEDULE):
        return None
    delay = RETRY_SCHEDULE[attempts] * (1 - RETRY_JITTER + 2 * RETRY_JITTER * jitter)
    return min(max(delay, retry_after or timedelta(0)), MAX_RETRY_DELAY)


CIRCUIT_THRESHOLD = 5
FIRST_CIRCUIT_PAUSE = timedelta(seconds=5)
MAX_CIRCUIT_PAUSE = timedelta(minutes=5)


class Circuit(NamedTuple):
    """Consecutive failures of an endpoint; its circuit is open until a time, if it was opened."""

    failures: int
    open_until: datetime | None

    def is_open(self, now: datetime) -> bool:
        """Return true if the endpoint must not be called yet."""
        return self.open_until is not None and self.open_until > now

    def needs_probe(self, now: datetime) -> bool:
        """Return true if a single delivery may be attempted."""
        return self.open_until is not None and self.open_until <= now

    def after_failures(self, count: int, now: datetime, *, is_probe: bool) -> "Circuit":
        """Return the circuit after failures of attempts that ran at the same time.

        Only a failed probe lengthens the pause. Attempts that began before the circuit was opened
        tell nothing new.
        """
        if is_probe:
            failures = self.failures + 1
        elif self.open_until is not None:
            return self
        else:
            failures = min(self.failures + count, CIRCUIT_THRESHOLD)
        duration = circuit_pause(failures)
        return Circuit(failures, None if duration is None else now + duration)


CLOSED_CIRCUIT = Circuit(0, None)


def circuit_pause(failures: int) -> timedelta | None:
    """Return the pause after this many consecutive failures, or None if there is none yet."""
    if failures < CIRCUIT_THRESHOLD:
        return None
    doublings = min(failures - CIRCUIT_THRESHOLD, 10)  # far over MAX_PAUSE
    return min(FIRST_CIRCUIT_PAUSE * (1 << doublings), MAX_CIRCUIT_PAUSE)

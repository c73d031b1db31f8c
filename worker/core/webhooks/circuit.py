"""The circuit breaker of an endpoint: after repeated failures, it is called less often.

A failure is an attempt without a response, or with a response of 500 or higher. While a circuit is
open, no delivery to its endpoint is attempted, and no attempt is used up. After the pause, one
delivery probes the endpoint: any other response closes the circuit, and another failure opens it
for a longer pause.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

THRESHOLD = 5
FIRST_PAUSE = timedelta(seconds=5)
MAX_PAUSE = timedelta(minutes=5)


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
            failures = min(self.failures + count, THRESHOLD)
        duration = pause(failures)
        return Circuit(failures, None if duration is None else now + duration)


CLOSED = Circuit(0, None)


def pause(failures: int) -> timedelta | None:
    """Return the pause after this many consecutive failures, or None if there is none yet."""
    if failures < THRESHOLD:
        return None
    doublings = min(failures - THRESHOLD, 10)  # far over MAX_PAUSE
    return min(FIRST_PAUSE * (1 << doublings), MAX_PAUSE)

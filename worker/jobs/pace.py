"""Spreads requests evenly, so that there are no more than a number of them a second."""

import time
from collections.abc import Callable


class Pace:
    """Gives turns at a rate. One thread uses it.

    sleep waits for a number of seconds. A turn that comes late does not make the next ones denser.
    """

    def __init__(
        self,
        rate: float,
        sleep: Callable[[float], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 1 / rate
        self._sleep = sleep
        self._monotonic = monotonic
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the next turn."""
        now = self._monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._interval

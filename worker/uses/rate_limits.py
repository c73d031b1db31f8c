"""Rates at which storage is asked: for one thread, and by name for several."""

import time
from collections.abc import Callable, Hashable
from datetime import datetime
from threading import Lock
from typing import NamedTuple


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


_MAX_NAMES = 10_000  # that are remembered, unless more than these are in use


class _Bucket(NamedTuple):
    tokens: float
    counted_at: datetime
    rate: float

    def at(self, now: datetime, capacity: float) -> float:
        """Return the number of tokens at a time. A clock that went back adds none."""
        seconds = max((now - self.counted_at).total_seconds(), 0.0)
        return min(self.tokens + seconds * self.rate, capacity)


class RateLimits:
    """Token buckets by name. Each holds the tokens of one second, and at least one.

    Threads may share it. Other processes have limits of their own.
    """

    def __init__(self) -> None:
        self._buckets: dict[Hashable, _Bucket] = {}
        self._lock = Lock()

    def take(self, name: Hashable, rate: float, wanted: int, now: datetime) -> int:
        """Take up to so many tokens, and return their number. rate is in tokens a second."""
        if rate <= 0:
            return 0
        capacity = max(rate, 1.0)
        with self._lock:
            bucket = self._buckets.get(name)
            tokens = capacity if bucket is None else bucket.at(now, capacity)
            taken = min(wanted, int(tokens))
            self._buckets[name] = _Bucket(tokens - taken, now, rate)
            if len(self._buckets) > _MAX_NAMES:
                self._forget_full(now)
        return taken

    def _forget_full(self, now: datetime) -> None:
        """Forget the buckets that are full, as one that nobody took from is."""
        for name, bucket in list(self._buckets.items()):
            capacity = max(bucket.rate, 1.0)
            if bucket.at(now, capacity) >= capacity:
                del self._buckets[name]

"""A lease in Redis, so that one of several processes works at a time."""

import secrets
import time

import redis

from worker.broker.sharing.scripts import END_LEASE, KEEP_LEASE


class Lease:
    """A lease that expires unless its holder renews it.

    A holder that was paused may believe for a moment that it still has the lease, so what it does
    must be correct even if two processes do it.
    """

    def __init__(self, client: redis.Redis, name: str, seconds: float) -> None:
        self._keep = client.register_script(KEEP_LEASE)
        self._end = client.register_script(END_LEASE)
        self._name, self._seconds = name, seconds
        self._holder = secrets.token_hex(16)
        self._renew_at = 0.0

    def is_due(self) -> bool:
        """Return whether it must be taken or renewed before the work goes on."""
        return time.monotonic() >= self._renew_at

    def keep(self) -> bool:
        """Take or renew it; return False if another process has it."""
        is_held = bool(self._keep([self._name], [self._holder, round(self._seconds * 1000)]))
        self._renew_at = time.monotonic() + self._seconds / 4 if is_held else 0.0
        return is_held

    def end(self) -> None:
        """Give it up, if it is held, so that another process need not wait for its expiry."""
        self._renew_at = 0.0
        self._end([self._name], [self._holder])

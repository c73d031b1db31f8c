"""Remembers for a moment which bucket profiles have storage that does not answer in time.

A call that waits for such storage holds the worker, and with it the messages of other tenants.
"""

from datetime import datetime, timedelta

from worker.core.tenants.config import Bucket
from worker.errors import StorageSilent

SILENCE = timedelta(seconds=15)
"""The time in which storage that did not answer is not called again by the same process."""


class SilentBuckets:
    """The bucket profiles of one process whose storage was silent or slow. Threads may share it."""

    def __init__(self) -> None:
        self._until: dict[Bucket, datetime] = {}

    def add(self, bucket: Bucket, now: datetime) -> None:
        """Remember that the storage of a bucket profile did not answer in time."""
        self._until[bucket] = now + SILENCE

    def check(self, bucket: Bucket, now: datetime) -> None:
        """Raise StorageSilent if the storage of a bucket profile was silent or slow just now."""
        if now < self._until.get(bucket, now):
            raise StorageSilent("storage did not answer a moment ago")

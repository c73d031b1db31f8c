"""What the handle of a batch tells of it, however a client waits."""

from datetime import UTC, datetime
from typing import TypeVar

from valetkey.progress import CANCELLED, Progress
from valetkey.refusals import QuotaState, Refusal

_LAST = 1.0  # seconds in which the service may yet say that the deadline has passed


Seconds = TypeVar("Seconds", float, float | None)


def patience(progress: Progress, timeout: Seconds) -> Seconds:
    """How long to wait for a batch, in seconds: timeout, but not beyond its deadline."""
    if progress.deadline is None:
        return timeout
    left = max((progress.deadline - datetime.now(UTC)).total_seconds(), _LAST)
    return left if timeout is None else min(timeout, left)


class Overview:
    """How far a batch has come, as far as its answers were heard."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def id(self) -> str:
        """The batch's id, by which any process of the tenant reopens it."""
        return self._progress.id

    @property
    def total(self) -> int:
        """How many items it has."""
        return self._progress.total

    @property
    def issued(self) -> int:
        """How many items were granted so far."""
        return self._progress.issued

    @property
    def refused(self) -> int:
        """How many items were refused so far."""
        return self._progress.refused

    @property
    def remaining(self) -> int:
        """How many items are not decided yet."""
        return self._progress.remaining

    @property
    def refusal(self) -> Refusal | None:
        """Why the service refused the batch as a whole, or that it was cancelled.

        Each item not granted then gets that refusal.
        """
        return self._progress.refusal

    @property
    def quotas(self) -> list[QuotaState]:
        """How the tenant's quotas stood with the newest answer."""
        return self._progress.quotas

    def stop(self) -> None:
        """Send no more of it: what was not sent comes out refused. Client.cancel does that."""
        self._progress.close(CANCELLED)

"""The parts of handles that do not wait."""

from datetime import UTC, datetime
from typing import TypeVar

from valetkey.delivery.pending_request import ServiceOutage
from valetkey.delivery.progress import CANCELLED, BatchProgress
from valetkey.wire.refusals import QuotaState, Refusal

DEFAULT_TIMEOUT = 30.0  # seconds
ALREADY_READ = "the grant was already read from its batch"

_MIN_WAIT = 1.0  # seconds in which the service can still reply that the deadline has passed

Seconds = TypeVar("Seconds", float, float | None)


def wait_limit(progress: BatchProgress, timeout: Seconds) -> Seconds:
    """Return how many seconds to wait for a batch: `timeout`, but not beyond its deadline."""
    if progress.deadline is None:
        return timeout
    seconds = max((progress.deadline - datetime.now(UTC)).total_seconds(), _MIN_WAIT)
    return seconds if timeout is None else min(timeout, seconds)


class BaseBatchHandle:
    """The part of BatchHandle and AsyncBatchHandle that does not wait."""

    def __init__(self, progress: BatchProgress) -> None:
        self._progress = progress

    @property
    def id(self) -> str:
        """The batch id; any process of the tenant can reopen the batch by it."""
        return self._progress.id

    @property
    def total(self) -> int:
        """The number of its items."""
        return self._progress.total

    @property
    def issued(self) -> int:
        """The number of items granted so far."""
        return self._progress.issued

    @property
    def refused(self) -> int:
        """The number of items refused so far."""
        return self._progress.refused

    @property
    def remaining(self) -> int:
        """The number of items that are not decided yet."""
        return self._progress.remaining

    @property
    def refusal(self) -> Refusal | None:
        """The refusal of the whole batch, or of the rest of a cancelled one.

        Each item without a grant gets it.
        """
        return self._progress.refusal

    @property
    def quotas(self) -> list[QuotaState]:
        """The state of the tenant's quotas in the newest reply."""
        return self._progress.quotas

    @property
    def service_outage(self) -> ServiceOutage | None:
        """Why, and since what time.monotonic(), the service says that it cannot answer."""
        return self._progress.service_outages.current

    def stop(self) -> None:
        """Send no more chunks, as Client.cancel does: items of unsent chunks come out refused."""
        self._progress.close(CANCELLED)

    def check_item(self, item: int) -> None:
        """Raise ValueError if the batch has no item of this number."""
        if not 0 <= item < self.total:
            raise ValueError(f"the batch has {self.total} items: item must be one of them, from 0")

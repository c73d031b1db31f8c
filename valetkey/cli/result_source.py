"""The results of one batch or several, and what is known about all of them."""

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

from valetkey.cli.descriptions import deduplication_key
from valetkey.cli.formats import RowResult
from valetkey.cli.journal import Checkpoint
from valetkey.delivery.pending_request import ServiceOutage
from valetkey.handles import BatchHandle
from valetkey.wire.refusals import QuotaState, Refusal


class ResultSource:
    """The results of a batch. Subclasses read several, and may add a new one in place of another.

    total is the expected number of results, refused that of the refusals so far.
    """

    def __init__(self, total: int, *batches: BatchHandle) -> None:
        self.total = total
        self.refused = 0
        self._batches = dict(enumerate(batches))
        self._refusals: dict[tuple[str, str, str], Refusal] = {}
        self._quotas: list[QuotaState] = []

    @property
    def refusals(self) -> list[Refusal]:
        """The refusals of whole batches; equal ones are listed once."""
        self._update_status()
        return list(self._refusals.values())

    @property
    def quotas(self) -> list[QuotaState]:
        """The tenant's quotas as of the latest response."""
        self._update_status()
        return self._quotas

    @property
    def service_outage(self) -> ServiceOutage | None:
        """Set while the service says that it cannot answer a batch; the longest of them."""
        outages = [batch.service_outage for batch in list(self._batches.values())]
        return min((o for o in outages if o is not None), key=lambda o: o.since, default=None)

    def results(self, timeout: float, _checkpoint: Checkpoint) -> Iterator[RowResult]:
        """Yield the results after a checkpoint; `timeout` is the longest wait for the next ones."""
        for batch in self._batches.values():
            for result in batch.results(timeout):
                self.refused += isinstance(result, Refusal)
                yield result

    def copied_values(self, _checkpoint: Checkpoint) -> Iterator[Mapping[str, Any]]:
        """Yield the values of each of these rows that are copied from the input."""
        return repeat({})

    def lifetimes(self, default: int, _checkpoint: Checkpoint) -> Iterator[int]:
        """Yield the lifetime in seconds that each of these rows requests."""
        return repeat(default)

    def _update_status(self) -> None:
        for batch in self._batches.values():
            self._quotas = batch.quotas or self._quotas
            if batch.refusal is not None:
                self._refusals.setdefault(deduplication_key(batch.refusal), batch.refusal)

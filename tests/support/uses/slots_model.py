"""A model of upload slots in plain Python, which tests compare with the tables.

It keeps what happened, and calculates states and refunds anew from that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from tests.support.uses.memory_bucket import MemoryObject
from worker.core.uses.reports import UseReport
from worker.core.uses.verdicts import CLOCK_SKEW

MAX_SIZE = 100
EXPIRES_IN = 300

ChunkKey = tuple[str, int]
"""The id of a batch, and the number of a chunk."""


class ModelGrant(NamedTuple):
    """An issued upload slot: a form, or a put of MAX_SIZE."""

    id: str
    chunk: ChunkKey
    item: int
    kind: str
    key: str
    issued_at: datetime

    @property
    def expires_at(self) -> datetime:
        return self.issued_at + timedelta(seconds=EXPIRES_IN)

    def allows(self, size: int) -> bool:
        return size == MAX_SIZE if self.kind == "put" else size <= MAX_SIZE


class ModelSettlement(NamedTuple):
    """The unused part of a chunk of slots."""

    unused: frozenset[int]
    used_bytes: int
    returned_bytes: int


@dataclass
class SlotsModel:
    """The slots, the reports that were told, and the settlements of one tenant."""

    grants: dict[str, ModelGrant] = field(default_factory=dict)
    told: dict[tuple[str, str], UseReport] = field(default_factory=dict)
    settled: dict[ChunkKey, ModelSettlement] = field(default_factory=dict)
    refund_unused: bool = True

    def tell(self, reports: Iterable[UseReport]) -> None:
        """Count reports as known, each once."""
        for report in reports:
            self.told.setdefault((report.object_key, report.etag or ""), report)

    def stored_by(self, grant: ModelGrant) -> list[UseReport]:
        """Return what is known to be stored by a grant, oldest first."""
        reports = (report for report in self.told.values() if report.grant_id == grant.id)
        return sorted(
            (r for r in reports if r.event == "stored"), key=lambda report: report.occurred_at
        )

    def newest_of(self, key: str) -> UseReport:
        """Return the newest object that is known to have been stored under a key."""
        stored = [r for r in self.told.values() if r.object_key == key and r.event == "stored"]
        return max(stored, key=lambda report: report.occurred_at)

    def state(self, grant: ModelGrant, now: datetime) -> str:
        """Return the state of a grant."""
        stored = self.stored_by(grant)
        if stored:
            return self._used_state(grant, stored[-1])
        if now < grant.expires_at:
            return "open"
        settlement = self.settled.get(grant.chunk)
        is_unused = settlement is not None and grant.item in settlement.unused
        return "unused" if is_unused else "unknown"

    def _used_state(self, grant: ModelGrant, report: UseReport) -> str:
        if self.newest_of(grant.key).grant_id != grant.id:
            return "overwritten"
        if not grant.allows(report.size or 0):
            return "mismatched"
        is_late = report.occurred_at > grant.expires_at + CLOCK_SKEW
        return "late" if is_late else "used"

    def settle(self, chunk: ChunkKey, objects: Mapping[str, MemoryObject]) -> ModelSettlement:
        """Return the settlement of a chunk now, after everything that was found was told."""
        unused = set[int]()
        used = returned = 0
        for grant in self.grants.values():
            if grant.chunk != chunk:
                continue
            size = max((report.size or 0 for report in self.stored_by(grant)), default=None)
            there = objects.get(grant.key)
            if size is None and there and there.modified_at >= grant.issued_at - CLOCK_SKEW:
                continue  # it may have replaced an object of this grant
            if size is None:
                unused.add(grant.item)
            used += size or 0
            returned += MAX_SIZE - min(size or 0, MAX_SIZE)
        returned = returned if self.refund_unused else 0
        return ModelSettlement(frozenset(unused), used, returned)

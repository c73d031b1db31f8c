"""A model of quotas in plain Python, which tests compare with the tables.

It keeps no running totals: usage is calculated anew from what was granted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from valetkey.wire.refusals import Metric, Window
from worker.features import NAMES
from worker.rules.tenant_config import QuotaOverride

METRICS: tuple[Metric, ...] = ("grants", "download_grants", "upload_bytes")
MAX_BYTES = 500_000  # of an upload or put
MAX_SECONDS = 86_400  # that the policy allows

ModelCost = tuple[int, int, int]
"""An amount of each metric, in the order of METRICS."""
ChunkResult = tuple[str | None, tuple[str | None, ...]]
"""The code of a chunk's refusal, if any, and the code of each item's refusal, if any."""
NO_COST: ModelCost = (0, 0, 0)
DAY = timedelta(days=1)
WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "month", "live")

UsageKey = tuple[Window, datetime]
"""A window, and its start."""
StepResult = ChunkResult | tuple[int, int] | int
"""A chunk's result, numbers of issued and released items, or a number of expired reservations."""


LIVE: UsageKey = ("live", datetime(1970, 1, 1, tzinfo=UTC))


class ModelItem(NamedTuple):
    """A requested item: its size in bytes, and whether its key is within the tenant's prefixes."""

    size: int
    is_allowed: bool


@dataclass
class ModelBatch:
    """A requested batch, and the decisions on it.

    results are those of the decided chunks, by chunk number. open_until is set while quota is
    reserved for further chunks; the batch accepts them before that moment.
    """

    id: str
    kind: str
    expires_in: int
    chunk_size: int
    items: list[ModelItem]
    decided_at: datetime | None = None
    refusal: str | None = None
    open_until: datetime | None = None
    results: dict[int, ChunkResult] = field(default_factory=dict)

    @property
    def chunks(self) -> range:
        return range(-(-len(self.items) // self.chunk_size))

    def undecided(self) -> "ModelBatch":
        """Return the same request before any decision on it."""
        return ModelBatch(self.id, self.kind, self.expires_in, self.chunk_size, self.items)

    def chunk_items(self, chunk: int) -> list[ModelItem]:
        return self.items[chunk * self.chunk_size :][: self.chunk_size]

    def cost(self, items: list[ModelItem], *, reserved: bool) -> ModelCost:
        """Return the cost of items; reserved for items that are not known yet: their maximum."""
        count = len(items)
        if self.kind == "download":
            return (count, count, 0)
        is_exact = self.kind == "put" and not reserved
        return (count, 0, sum(item.size if is_exact else MAX_BYTES for item in items))

    def granted_cost(self, chunk: int) -> ModelCost:
        """Return the cost of a chunk's issued items; of all allowed ones before its decision."""
        allowed = [item for item in self.chunk_items(chunk) if item.is_allowed]
        is_refused = chunk in self.results and self.results[chunk][0] is not None
        return self.cost([] if is_refused else allowed, reserved=False)

    def is_open(self, now: datetime) -> bool:
        return self.open_until is not None and now < self.open_until

    def remaining_items(self) -> list[ModelItem]:
        """Return the items that quota is still reserved for.

        A chunk that arrives too late leaves its reservation to cleanup.
        """
        if self.open_until is None:
            return []
        return [
            item
            for chunk in self.chunks
            if self.results.get(chunk, ("batch_closed",))[0] == "batch_closed"
            for item in self.chunk_items(chunk)
        ]

    def costs(self) -> Iterator[ModelCost]:
        """Yield the cost of each decided chunk, and the cost reserved for the others."""
        yield from (self.granted_cost(chunk) for chunk in self.results)
        yield self.cost(self.remaining_items(), reserved=True)


def window_start(window: Window, now: datetime) -> datetime:
    match window:
        case "live":
            return LIVE[1]
        case "month":
            return window_start("day", now.replace(day=1))
        case "day":
            return window_start("hour", now.replace(hour=0))
        case "hour":
            return window_start("minute", now.replace(minute=0))
    return now.replace(second=0, microsecond=0)


class IssueStep(NamedTuple):
    """Delivers a chunk of a batch."""

    batch_id: str
    chunk: int


class CancelStep(NamedTuple):
    """Cancels a batch."""

    batch_id: str


class CleanupStep(NamedTuple):
    """Releases expired reservations."""


Step = IssueStep | CancelStep | CleanupStep


def usage_of(
    usage: Mapping[UsageKey, ModelCost], metric: Metric, window: Window, now: datetime
) -> int:
    """Return the usage of a metric in the window that contains a moment."""
    return usage.get((window, window_start(window, now)), NO_COST)[METRICS.index(metric)]


@dataclass
class QuotaModel:
    """The batches and quotas of one tenant.

    cancelled are batch ids. live_chunks are issued chunks, by batch id and chunk number, until
    cleanup releases them; the values are their expiry. ended_chunks keep the bytes of their slots
    in the window live, because nothing settles them here; without the feature uses there are none.
    Usage of minutes and hours before
    kept_from may be deleted. removed are the models of the removed tenants of the same name, oldest
    first.
    """

    batches: dict[str, ModelBatch] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    live_chunks: dict[tuple[str, int], datetime] = field(default_factory=dict)
    ended_chunks: set[tuple[str, int]] = field(default_factory=set)
    limits: dict[tuple[Metric, Window], int] = field(default_factory=dict)
    overrides: list[QuotaOverride] = field(default_factory=list)
    kept_from: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    removed: list["QuotaModel"] = field(default_factory=list)

    def replaced(self) -> "QuotaModel":
        """Return the model of a new tenant of the same name, with the same limits and requests."""
        batches = {id_: batch.undecided() for id_, batch in self.batches.items()}
        removed = [*self.removed, replace(self, removed=[])]
        return QuotaModel(batches, limits=self.limits, kept_from=self.kept_from, removed=removed)

    def limit(self, metric: Metric, window: Window, now: datetime) -> int:
        """Return the limit in effect, including overrides."""
        overrides = (
            each for each in self.overrides if (each.metric, each.window) == (metric, window)
        )
        extras = (override.extra for override in overrides if now < override.expires_at)
        return self.limits[metric, window] + sum(extras)

    def usage(self) -> dict[UsageKey, ModelCost]:
        """Return the usage of every window that has any."""
        sums: Counter[tuple[UsageKey, int]] = Counter()
        for batch in self.batches.values():
            if batch.decided_at is None:
                continue
            for window in WINDOWS[:-1]:
                for cost in batch.costs():
                    _add(sums, (window, window_start(window, batch.decided_at)), cost)
            _add(sums, LIVE, self._live_cost(batch))
        keys = {key for key, _ in +sums}
        return {key: (sums[key, 0], sums[key, 1], sums[key, 2]) for key in keys}

    def kept_usage(self) -> dict[UsageKey, ModelCost]:
        """Return the usage of windows that cleanup has not deleted."""
        return {
            key: cost
            for key, cost in self.usage().items()
            if key[0] not in {"minute", "hour"} or key[1] >= self.kept_from
        }

    def codes(self) -> dict[tuple[str, int], str | None]:
        """Return the refusal code of each decided item, by batch id and item number."""
        return {
            (batch.id, chunk * batch.chunk_size + index): refusal or codes[index]
            for batch in self.batches.values()
            for chunk, (refusal, codes) in batch.results.items()
            for index in range(len(batch.chunk_items(chunk)))
        }

    def _live_cost(self, batch: ModelBatch) -> ModelCost:
        costs = [batch.granted_cost(chunk) for id_, chunk in self.live_chunks if id_ == batch.id]
        ended = [batch.granted_cost(chunk) for id_, chunk in self.ended_chunks if id_ == batch.id]
        costs += [(0, 0, upload_bytes) for _, _, upload_bytes in ended]
        remaining = batch.cost(batch.remaining_items(), reserved=True)
        grants, download_grants, upload_bytes = zip(*costs, remaining, strict=True)
        return (sum(grants), sum(download_grants), sum(upload_bytes))

    def apply(self, step: Step, now: datetime) -> StepResult:
        """Apply a step, and return the expected result."""
        if isinstance(step, IssueStep):
            return self._issue(*step, now)
        return self._cancel(step.batch_id) if isinstance(step, CancelStep) else self._clean_up(now)

    def _issue(self, batch_id: str, chunk: int, now: datetime) -> ChunkResult:
        batch = self.batches[batch_id]
        if chunk in batch.results:
            return batch.results[chunk]
        if batch.decided_at is None:
            self._open(batch, chunk, now)
        refusal = batch.refusal
        if refusal is None and len(batch.chunks) > 1 and not batch.is_open(now):
            refusal = "batch_closed"
        items = batch.chunk_items(chunk)
        codes = tuple(None if item.is_allowed else "key_outside_prefix" for item in items)
        batch.results[chunk] = (refusal, () if refusal else codes)
        if refusal is None and batch.granted_cost(chunk)[0]:
            self.live_chunks[batch_id, chunk] = now + timedelta(seconds=batch.expires_in)
        if not batch.remaining_items():
            batch.open_until = None
        return batch.results[chunk]

    def _open(self, batch: ModelBatch, chunk: int, now: datetime) -> None:
        batch.decided_at = now
        if batch.id in self.cancelled:
            batch.refusal = "batch_closed"
        elif batch.expires_in > MAX_SECONDS:
            batch.refusal = "expiry_too_long"
        elif not self._fits(batch, chunk, now):
            batch.refusal = "quota_exceeded"
        elif len(batch.chunks) > 1:
            batch.open_until = now + self._open_time()

    def _open_time(self) -> timedelta:
        """Return the shortest window with a limit; a day without one or if it is longer."""
        windows = {window for _, window in self.limits}
        if "minute" in windows:
            return timedelta(minutes=1)
        return timedelta(hours=1) if "hour" in windows else DAY

    def _fits(self, batch: ModelBatch, chunk: int, now: datetime) -> bool:
        """Return whether a batch that this chunk opens is within every quota."""
        others = [
            item for other in batch.chunks if other != chunk for item in batch.chunk_items(other)
        ]
        costs = zip(batch.granted_cost(chunk), batch.cost(others, reserved=True), strict=True)
        requested = dict(zip(METRICS, map(sum, costs), strict=True))
        usage = self.usage()
        for metric, window in self.limits:
            used = usage_of(usage, metric, window, now)
            if requested[metric] and used + requested[metric] > self.limit(metric, window, now):
                return False
        return True

    def _cancel(self, batch_id: str) -> tuple[int, int]:
        self.cancelled.add(batch_id)
        batch = self.batches[batch_id]
        released = len(batch.remaining_items())
        batch.open_until = None
        return sum(batch.granted_cost(chunk)[0] for chunk in batch.results), released

    def _clean_up(self, now: datetime) -> int:
        open_batches = [
            batch for batch in self.batches.values() if batch.open_until and batch.open_until <= now
        ]
        expired_chunks = [key for key, expires_at in self.live_chunks.items() if expires_at <= now]
        for batch in open_batches:
            batch.open_until = None
        for key in expired_chunks:
            del self.live_chunks[key]
            if "uses" in NAMES:
                self.ended_chunks.add(key)
        self.kept_from = max(self.kept_from, now - 2 * DAY)
        released = sum(model._clean_up(now) for model in self.removed)
        return released + len(open_batches) + len(expired_chunks)


def _add(sums: Counter[tuple[UsageKey, int]], key: UsageKey, cost: ModelCost) -> None:
    for index, amount in enumerate(cost):
        sums[key, index] += amount

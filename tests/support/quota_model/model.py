"""What quotas have to come to: the bookkeeping once more, in plain Python, to hold tables against.

Nothing is added up as it goes: what stands charged is worked out anew from what was granted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from valetkey.wire.refusals import Metric, Window

DAY = timedelta(days=1)
METRICS: tuple[Metric, ...] = ("grants", "download_grants", "upload_bytes")
WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "month", "live")
MAX_BYTES = 500_000  # bytes of an upload or put
MAX_SECONDS = 86_400  # seconds that policy allows

Amount = tuple[int, int, int]
Place = tuple[Window, datetime]
Said = tuple[str | None, tuple[str | None, ...]]
"""A chunk's refusal if it has one, and each item's."""
Result = Said | tuple[int, int] | int
"""What comes of an act: what is said, items granted and released, or how many rows lapsed."""


class ModelRequest(NamedTuple):
    """An item: its size in bytes, and whether its key is in the tenant's prefixes."""

    size: int
    is_fine: bool


NO_AMOUNT: Amount = (0, 0, 0)
LIVE: Place = ("live", datetime(1970, 1, 1, tzinfo=UTC))


def window_start(window: Window, at: datetime) -> datetime:
    """When the window that holds this moment began."""
    match window:
        case "live":
            return LIVE[1]
        case "month":
            return window_start("day", at.replace(day=1))
        case "day":
            return window_start("hour", at.replace(hour=0))
        case "hour":
            return window_start("minute", at.replace(minute=0))
    return at.replace(second=0, microsecond=0)


class IssueStep(NamedTuple):
    """That a chunk of a batch is delivered."""

    batch: str
    chunk: int


class CancelStep(NamedTuple):
    """That a batch is cancelled."""

    batch: str


class CleanupStep(NamedTuple):
    """That what has ended by itself is released."""


Act = IssueStep | CancelStep | CleanupStep


@dataclass
class ModelBatch:
    """What was asked for, and what became of it."""

    id: str
    kind: str
    expires_in: int
    chunk_size: int
    items: list[ModelRequest]
    decided_at: datetime | None = None
    refusal: str | None = None
    rest_until: datetime | None = None
    said: dict[int, Said] = field(default_factory=dict)

    @property
    def chunks(self) -> range:
        return range(-(-len(self.items) // self.chunk_size))

    def of(self, chunk: int) -> list[ModelRequest]:
        return self.items[chunk * self.chunk_size :][: self.chunk_size]

    def amount(self, items: list[ModelRequest], *, reserved: bool) -> Amount:
        """What items cost: before they are known, as much as they may."""
        count = len(items)
        if self.kind == "download":
            return (count, count, 0)
        exact = self.kind == "put" and not reserved
        return (count, 0, sum(item.size if exact else MAX_BYTES for item in items))

    def granted(self, chunk: int) -> Amount:
        fine = [item for item in self.of(chunk) if item.is_fine]
        refused = chunk in self.said and self.said[chunk][0] is not None
        return self.amount([] if refused else fine, reserved=False)

    def to_come(self) -> list[ModelRequest]:
        missing = (self.of(chunk) for chunk in self.chunks if chunk not in self.said)
        return [item for items in missing for item in items] if self.rest_until else []

    def amounts(self) -> Iterator[Amount]:
        """What it is charged."""
        yield from (self.granted(chunk) for chunk in self.said)
        yield self.amount(self.to_come(), reserved=True)


def usage_of(charged: Mapping[Place, Amount], metric: Metric, window: Window, at: datetime) -> int:
    """How much of a metric is used in the window that holds this moment."""
    return charged.get((window, window_start(window, at)), NO_AMOUNT)[METRICS.index(metric)]


@dataclass
class QuotaModel:
    """Everything that was asked of one tenant, and its quotas."""

    batches: dict[str, ModelBatch] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    held: dict[tuple[str, int], datetime] = field(default_factory=dict)
    limits: dict[tuple[Metric, Window], int] = field(default_factory=dict)
    raises: list[tuple[Metric, Window, int, datetime]] = field(default_factory=list)
    remembered_from: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def limit(self, metric: Metric, window: Window, now: datetime) -> int:
        """The limit in force."""
        raised = (r[2] for r in self.raises if r[:2] == (metric, window) and now < r[3])
        return self.limits[metric, window] + sum(raised)

    def charged(self) -> dict[Place, Amount]:
        """What stands charged, in every window where there is anything."""
        sums: Counter[tuple[Place, int]] = Counter()
        for batch in self.batches.values():
            if batch.decided_at is None:
                continue
            for window in WINDOWS[:-1]:
                for amount in batch.amounts():
                    _add(sums, (window, window_start(window, batch.decided_at)), amount)
            _add(sums, LIVE, self._live(batch))
        places = {place for place, _ in +sums}
        return {place: (sums[place, 0], sums[place, 1], sums[place, 2]) for place in places}

    def remembered(self) -> dict[Place, Amount]:
        """What stands charged in windows that are not forgotten yet."""
        return {
            place: amount
            for place, amount in self.charged().items()
            if place[0] not in {"minute", "hour"} or place[1] >= self.remembered_from
        }

    def rows(self) -> dict[tuple[str, int], str | None]:
        """Each item that was decided, and the code of its refusal."""
        return {
            (batch.id, chunk * batch.chunk_size + index): refusal or codes[index]
            for batch in self.batches.values()
            for chunk, (refusal, codes) in batch.said.items()
            for index in range(len(batch.of(chunk)))
        }

    def _live(self, batch: ModelBatch) -> Amount:
        amounts = [batch.granted(chunk) for of, chunk in self.held if of == batch.id]
        a, b, c = zip(*amounts, batch.amount(batch.to_come(), reserved=True), strict=True)
        return (sum(a), sum(b), sum(c))

    def come_to(self, act: Act, now: datetime) -> Result:
        """What is to come of an act."""
        match act:
            case IssueStep():
                return self._issue(*act, now)
            case CancelStep():
                return self._cancel(act.batch)
        return self._sweep(now)

    def _issue(self, of: str, chunk: int, now: datetime) -> Said:
        batch = self.batches[of]
        if chunk in batch.said:
            return batch.said[chunk]
        if batch.decided_at is None:
            self._open(batch, chunk, now)
        refusal = batch.refusal
        if refusal is None and len(batch.chunks) > 1 and batch.rest_until is None:
            refusal = "batch_closed"
        codes = tuple(None if one.is_fine else "key_outside_prefix" for one in batch.of(chunk))
        batch.said[chunk] = (refusal, () if refusal else codes)
        if refusal is None and batch.granted(chunk)[0]:
            self.held[of, chunk] = now + timedelta(seconds=batch.expires_in)
        if len(batch.said) == len(batch.chunks):
            batch.rest_until = None
        return batch.said[chunk]

    def _open(self, batch: ModelBatch, chunk: int, now: datetime) -> None:
        batch.decided_at = now
        if batch.id in self.cancelled:
            batch.refusal = "batch_closed"
        elif batch.expires_in > MAX_SECONDS:
            batch.refusal = "expiry_too_long"
        elif not self._fits(batch, chunk, now):
            batch.refusal = "quota_exceeded"
        elif len(batch.chunks) > 1:
            batch.rest_until = now + DAY

    def _fits(self, batch: ModelBatch, chunk: int, now: datetime) -> bool:
        others = [one for other in batch.chunks if other != chunk for one in batch.of(other)]
        more = zip(batch.granted(chunk), batch.amount(others, reserved=True), strict=True)
        asked = dict(zip(METRICS, (here + there for here, there in more), strict=True))
        charged = self.charged()
        for metric, window in self.limits:
            used = usage_of(charged, metric, window, now)
            if asked[metric] and used + asked[metric] > self.limit(metric, window, now):
                return False
        return True

    def _cancel(self, of: str) -> tuple[int, int]:
        self.cancelled.add(of)
        batch = self.batches[of]
        released = len(batch.to_come())
        batch.rest_until = None
        return sum(batch.granted(chunk)[0] for chunk in batch.said), released

    def _sweep(self, now: datetime) -> int:
        rests = [b for b in self.batches.values() if b.rest_until and b.rest_until <= now]
        over = [name for name, ends_at in self.held.items() if ends_at <= now]
        for batch in rests:
            batch.rest_until = None
        for name in over:
            del self.held[name]
        self.remembered_from = max(self.remembered_from, now - 2 * DAY)
        return len(rests) + len(over)


def _add(sums: Counter[tuple[Place, int]], place: Place, amount: Amount) -> None:
    for index, one in enumerate(amount):
        sums[place, index] += one

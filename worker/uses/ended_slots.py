"""Upload slots that ended: claimed, settled, looked at once more, and given back.

A transaction that locks such a row and also charges or releases usage locks it first, as it does a
reservation.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select, tuple_, update

from models import Batch, Chunk, EndedSlot, Reservation, Settlement
from worker.hooks import GivenBack, ReleasedRow
from worker.rules.issued_grants import SLOT_KINDS
from worker.shared.pages import in_parts
from worker.uses.use_reports import GRACE, SECOND_LOOK

MAX_SLOT_ITEMS = 1_000
"""The items of the chunks that are claimed together, unless a single chunk has more."""

_MAX_SLOTS = 100  # chunks that are claimed together
_MAX_TENANTS = 10  # of those chunks
_FIRST_DELAY, _MAX_DELAY = timedelta(minutes=10), timedelta(hours=6)
_MAX_DOUBLINGS = 6  # of the first delay: beyond, it exceeds the longest one

_SLOT_COLUMNS = (
    *(EndedSlot.batch_number, EndedSlot.chunk_number, EndedSlot.tenant, EndedSlot.bucket),
    *(EndedSlot.charged_at, EndedSlot.ended_at, EndedSlot.attempts, EndedSlot.is_settled),
)
_IS_SLOT = and_(
    Chunk.batch_number == EndedSlot.batch_number, Chunk.chunk_number == EndedSlot.chunk_number
)


class EndedChunk(NamedTuple):
    """A claimed chunk of upload slots. issued is its number of grants.

    is_settled is true at the second look.
    """

    batch_number: int
    chunk_number: int
    tenant: str
    bucket: str
    charged_at: datetime
    ended_at: datetime
    attempts: int
    is_settled: bool
    issued: int
    chunk_size: int

    @property
    def items(self) -> range:
        """The numbers of the chunk's items."""
        first = self.chunk_number * self.chunk_size
        return range(first, first + self.chunk_size)

    @property
    def key(self) -> tuple[int, int]:
        """The primary key of the row."""
        return self.batch_number, self.chunk_number


def keep_slots(
    connection: Connection, rows: Sequence[ReleasedRow], _now: datetime
) -> set[tuple[int, int]]:
    """Insert a row for each released chunk of upload slots; their bytes stay charged meanwhile."""
    rows = [row for row in rows if row.chunk_number is not None]
    batches: dict[int, str] = {}
    query = select(Batch.batch_number, Batch.bucket).where(Batch.kind.in_(SLOT_KINDS))
    for part in in_parts(sorted({row.batch_number for row in rows})):
        found = connection.execute(query.where(Batch.batch_number.in_(part)))
        batches.update((row.batch_number, row.bucket) for row in found)
    values = [
        {
            "batch_number": row.batch_number,
            "chunk_number": row.chunk_number,
            "tenant": row.tenant,
            "bucket": batches[row.batch_number],
            "charged_at": row.charged_at,
            "ended_at": row.expires_at,
            "check_at": row.expires_at + GRACE,
            "attempts": 0,
            "reserved_bytes": row.upload_bytes,
            "is_settled": False,
        }
        for row in rows
        if row.batch_number in batches
    ]
    if values:
        connection.execute(insert(EndedSlot), values)
    return {
        (row.batch_number, row.chunk_number)
        for row in rows
        if row.chunk_number is not None and row.batch_number in batches
    }


def give_back(connection: Connection, chunk: tuple[int, int], size: int) -> GivenBack | None:
    """Reduce what a chunk without a reservation keeps, unless its settlement gave that back."""
    slot = (
        update(EndedSlot)
        .where(*_is_slot(chunk), EndedSlot.is_settled.is_(False))
        .values(reserved_bytes=EndedSlot.reserved_bytes - size)
        .returning(EndedSlot.charged_at)
    )
    charged_at = connection.execute(slot).scalar_one_or_none()
    if charged_at is None and not _has_settlement(connection, *chunk):
        return None
    return GivenBack(charged_at)


def buckets_with_due_slots(connection: Connection, now: datetime) -> list[str]:
    """Return the bucket profiles that have chunks to settle."""
    query = select(EndedSlot.bucket).distinct().where(EndedSlot.check_at <= now)
    return list(connection.scalars(query))


def claim_ended_chunks(
    connection: Connection, bucket: str, now: datetime, rate: int, random: Callable[[], float]
) -> list[EndedChunk]:
    """Claim chunks of a bucket profile, those of each tenant that wait the longest.

    The tenants alternate, in another order each time: one with many slots delays no other one,
    whose slots stay charged until they are settled. No other process claims them before they could
    have been settled at this rate of requests a second; after each attempt that fails they wait
    longer.
    """
    is_due = EndedSlot.bucket == bucket, EndedSlot.check_at <= now
    tenants = sorted(connection.scalars(select(EndedSlot.tenant).distinct().where(*is_due)))
    tenants.sort(key=lambda _: random())
    del tenants[_MAX_TENANTS:]
    query = (
        select(*_SLOT_COLUMNS, Chunk.issued, Batch.chunk_size)
        .join(Chunk, _IS_SLOT)
        .join(Batch, Batch.batch_number == EndedSlot.batch_number)
        .where(*is_due)
        .order_by(EndedSlot.check_at, EndedSlot.batch_number, EndedSlot.chunk_number)
        .limit(_MAX_SLOTS // max(len(tenants), 1))
        .with_for_update(skip_locked=True, of=EndedSlot)
    )
    by_tenant = [
        connection.execute(query.where(EndedSlot.tenant == each)).all() for each in tenants
    ]
    slots: list[EndedChunk] = []
    items = 0
    for row in filter(None, chain.from_iterable(zip_longest(*by_tenant))):
        items += row.issued
        if slots and items > MAX_SLOT_ITEMS:
            break
        slots.append(EndedChunk._make(row))
    for slot in slots:
        backoff = min(_FIRST_DELAY * 2 ** min(slot.attempts, _MAX_DOUBLINGS), _MAX_DELAY)
        delay = max(lease_slot(slots, rate), backoff)
        _update_slot(connection, slot, check_at=now + delay, attempts=slot.attempts + 1)
    return slots


def lease_slot(slots: Iterable[EndedChunk], rate: int) -> timedelta:
    """Return the time for which chunks that are claimed together are claimed at least."""
    items = sum(slot.issued for slot in slots)
    return max(timedelta(seconds=2 * items / max(rate, 1)), _FIRST_DELAY)


def postpone_ended_chunk(connection: Connection, slot: EndedChunk, check_at: datetime) -> None:
    """Let a claimed chunk wait until a time; this attempt does not count.

    Changes nothing if another process settled it meanwhile: its second look must not be early.
    """
    _update_slot(connection, slot, check_at=check_at, attempts=slot.attempts)


def _update_slot(connection: Connection, slot: EndedChunk, **values: Any) -> None:
    connection.execute(update(EndedSlot).where(*_is_claimed(slot)).values(values))


def _is_claimed(slot: EndedChunk) -> Sequence[Any]:
    """Select the row of a chunk, unless another process settled it since it was claimed."""
    return (*_is_slot(slot.key), EndedSlot.is_settled.is_(slot.is_settled))


def insert_second_look(connection: Connection, slot: EndedChunk) -> None:
    """Let storage be asked once more for what a chunk stored, whose row was taken."""
    names = ("batch_number", "chunk_number", "tenant", "bucket", "charged_at", "ended_at")
    values = {name: getattr(slot, name) for name in names}
    values |= {"check_at": slot.ended_at + SECOND_LOOK, "attempts": 0}
    connection.execute(insert(EndedSlot), values | {"reserved_bytes": 0, "is_settled": True})


def take_ended_chunk(connection: Connection, slot: EndedChunk) -> int | None:
    """Delete a chunk; return the bytes it has reserved, None if another transaction was first."""
    statement = delete(EndedSlot).where(*_is_claimed(slot)).returning(EndedSlot.reserved_bytes)
    return connection.execute(statement).scalar_one_or_none()


def lock_unsettled(
    connection: Connection, chunks: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Return the chunks of upload slots that are not settled; none is until the transaction ends.

    A chunk whose grants end meanwhile moves to the table that is read last.
    """
    unsettled: set[tuple[int, int]] = set()
    ordered = sorted(chunks)
    for table in (Reservation, EndedSlot):
        key = table.batch_number, table.chunk_number
        query = select(*key).order_by(*key).with_for_update(read=True)
        if table is EndedSlot:
            query = query.where(EndedSlot.is_settled.is_(False))
        for part in in_parts(ordered):
            rows = connection.execute(query.where(tuple_(*key).in_(part)))
            unsettled.update((row[0], row[1]) for row in rows)
    return unsettled


def _has_settlement(connection: Connection, batch_number: int, chunk_number: int) -> bool:
    query = select(Settlement.batch_number).where(
        Settlement.batch_number == batch_number, Settlement.chunk_number == chunk_number
    )
    return connection.execute(query).first() is not None


def _is_slot(key: tuple[int, int]) -> Sequence[Any]:
    return EndedSlot.batch_number == key[0], EndedSlot.chunk_number == key[1]

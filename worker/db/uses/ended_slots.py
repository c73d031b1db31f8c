"""Chunks of upload slots that ended: rows from the end of their grants to the last look."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select, tuple_, update

from models import Batch, Chunk, EndedSlot, Reservation, Settlement
from worker.core.uses.used_grant import GRACE, SECOND_LOOK, SLOT_KINDS

MAX_ITEMS = 1_000
"""The items of the chunks that are claimed together, unless a single chunk has more."""

_MAX_SLOTS = 100  # chunks that are claimed together
_MAX_TENANTS = 10  # of those chunks
_PER_QUERY = 500
_FIRST_DELAY, _MAX_DELAY = timedelta(minutes=10), timedelta(hours=6)
_MAX_DOUBLINGS = 6  # of the first delay: beyond, it exceeds the longest one

_COLUMNS = (
    *(EndedSlot.batch_number, EndedSlot.chunk_number, EndedSlot.tenant, EndedSlot.bucket),
    *(EndedSlot.charged_at, EndedSlot.ended_at, EndedSlot.attempts, EndedSlot.is_settled),
)
_IS_CHUNK = and_(
    Chunk.batch_number == EndedSlot.batch_number, Chunk.chunk_number == EndedSlot.chunk_number
)


class Slot(NamedTuple):
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


def insert_ended_slots(connection: Connection, released: Iterable[Any]) -> None:
    """Insert a row for each chunk of upload slots among released reservations."""
    rows = list(released)
    numbers = sorted({row.batch_number for row in rows})
    batches: dict[int, str] = {}
    for start in range(0, len(numbers), _PER_QUERY):
        query = select(Batch.batch_number, Batch.bucket).where(
            Batch.batch_number.in_(numbers[start : start + _PER_QUERY]), Batch.kind.in_(SLOT_KINDS)
        )
        batches.update((row.batch_number, row.bucket) for row in connection.execute(query))
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


def buckets_with_due_slots(connection: Connection, now: datetime) -> list[str]:
    """Return the bucket profiles that have chunks to settle."""
    query = select(EndedSlot.bucket).distinct().where(EndedSlot.check_at <= now)
    return list(connection.scalars(query))


def claim_slots(
    connection: Connection, bucket: str, now: datetime, rate: int, random: Callable[[], float]
) -> list[Slot]:
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
        select(*_COLUMNS, Chunk.issued, Batch.chunk_size)
        .join(Chunk, _IS_CHUNK)
        .join(Batch, Batch.batch_number == EndedSlot.batch_number)
        .where(*is_due)
        .order_by(EndedSlot.check_at, EndedSlot.batch_number, EndedSlot.chunk_number)
        .limit(_MAX_SLOTS // max(len(tenants), 1))
        .with_for_update(skip_locked=True, of=EndedSlot)
    )
    by_tenant = [
        connection.execute(query.where(EndedSlot.tenant == each)).all() for each in tenants
    ]
    slots: list[Slot] = []
    items = 0
    for row in filter(None, chain.from_iterable(zip_longest(*by_tenant))):
        items += row.issued
        if slots and items > MAX_ITEMS:
            break
        slots.append(Slot._make(row))
    for slot in slots:
        backoff = min(_FIRST_DELAY * 2 ** min(slot.attempts, _MAX_DOUBLINGS), _MAX_DELAY)
        delay = max(lease(slots, rate), backoff)
        _update(connection, slot, check_at=now + delay, attempts=slot.attempts + 1)
    return slots


def lease(slots: Iterable[Slot], rate: int) -> timedelta:
    """Return the time for which chunks that are claimed together are claimed at least."""
    items = sum(slot.issued for slot in slots)
    return max(timedelta(seconds=2 * items / max(rate, 1)), _FIRST_DELAY)


def postpone_slot(connection: Connection, slot: Slot, check_at: datetime) -> None:
    """Let a claimed chunk wait until a time; this attempt does not count.

    Changes nothing if another process settled it meanwhile: its second look must not be early.
    """
    _update(connection, slot, check_at=check_at, attempts=slot.attempts)


def _update(connection: Connection, slot: Slot, **values: Any) -> None:
    statement = update(EndedSlot).where(*_is(slot.key), EndedSlot.is_settled.is_(slot.is_settled))
    connection.execute(statement.values(values))


def insert_second_look(connection: Connection, slot: Slot) -> None:
    """Let storage be asked once more for what a chunk stored, whose row was taken."""
    names = ("batch_number", "chunk_number", "tenant", "bucket", "charged_at", "ended_at")
    values = {name: getattr(slot, name) for name in names}
    values |= {"check_at": slot.ended_at + SECOND_LOOK, "attempts": 0}
    connection.execute(insert(EndedSlot), values | {"reserved_bytes": 0, "is_settled": True})


def take_slot(connection: Connection, slot: Slot) -> int | None:
    """Delete a chunk; return the bytes it has reserved, None if another transaction was first."""
    statement = delete(EndedSlot).where(*_is(slot.key), EndedSlot.is_settled.is_(slot.is_settled))
    return connection.execute(statement.returning(EndedSlot.reserved_bytes)).scalar_one_or_none()


def take_reserved_bytes(
    connection: Connection, batch_number: int, chunk_number: int, size: int
) -> datetime | None:
    """Reduce what a chunk has reserved; return the time of its charge, None without such a row."""
    is_chunk = _is((batch_number, chunk_number))
    statement = update(EndedSlot).where(*is_chunk, EndedSlot.is_settled.is_(False))
    values = {"reserved_bytes": EndedSlot.reserved_bytes - size}
    return connection.execute(
        statement.values(values).returning(EndedSlot.charged_at)
    ).scalar_one_or_none()


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
        for start in range(0, len(ordered), _PER_QUERY):
            part = query.where(tuple_(*key).in_(ordered[start : start + _PER_QUERY]))
            unsettled.update((row[0], row[1]) for row in connection.execute(part))
    return unsettled


def is_settled(connection: Connection, batch_number: int, chunk_number: int) -> bool:
    """Return true if a chunk is settled."""
    query = select(Settlement.batch_number).where(
        Settlement.batch_number == batch_number, Settlement.chunk_number == chunk_number
    )
    return connection.execute(query).first() is not None


def _is(key: tuple[int, int]) -> Sequence[Any]:
    return EndedSlot.batch_number == key[0], EndedSlot.chunk_number == key[1]

"""Reservations of chunks until their grants expire, and slots from then to the last look.

A transaction that locks such a row and also charges or releases usage locks the reservation first.
The fixed order avoids deadlocks.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, tuple_, update

from models import Batch, Chunk, EndedSlot, Reservation, Settlement
from worker.base.database_engine import DriverStatement
from worker.base.pages import in_parts
from worker.core.decisions import ChunkDecision, ChunkRequest
from worker.core.grant_kinds import reserved_cost
from worker.core.issued_grants import GRACE, SECOND_LOOK, SLOT_KINDS
from worker.core.quota_rules import (
    CHARGED_METRICS,
    LIVE_WINDOWS,
    NO_COST,
    PAST_WINDOWS,
    WINDOWS,
    Cost,
    batch_open_time,
    window_start,
)
from worker.ledger import quota_usage
from worker.ledger.batch_completion import REMAINING, release_completions

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


def insert_ended_slots(connection: Connection, released: Iterable[Any]) -> None:
    """Insert a row for each chunk of upload slots among released reservations."""
    rows = list(released)
    numbers = sorted({row.batch_number for row in rows})
    batches: dict[int, str] = {}
    query = select(Batch.batch_number, Batch.bucket).where(Batch.kind.in_(SLOT_KINDS))
    for part in in_parts(numbers):
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


def is_settled(connection: Connection, batch_number: int, chunk_number: int) -> bool:
    """Return true if a chunk is settled."""
    query = select(Settlement.batch_number).where(
        Settlement.batch_number == batch_number, Settlement.chunk_number == chunk_number
    )
    return connection.execute(query).first() is not None


def _is_slot(key: tuple[int, int]) -> Sequence[Any]:
    return EndedSlot.batch_number == key[0], EndedSlot.chunk_number == key[1]


_INSERT = DriverStatement(insert(Reservation))
_COSTS = tuple(getattr(Reservation, metric) for metric in CHARGED_METRICS)
_IS_REMAINING = (
    Reservation.batch_number == bindparam("batch"),
    Reservation.chunk_number == REMAINING,
)
_TAKE = DriverStatement(
    update(Reservation)
    .where(*_IS_REMAINING)
    .values(
        {
            column: column - bindparam(f"minus_{column.key}")
            for column in (Reservation.items, *_COSTS)
        }
    )
    .returning(Reservation.items)
)
_CLOSE = (
    delete(Reservation)
    .where(*_IS_REMAINING)
    .returning(Reservation.items, Reservation.charged_at, *_COSTS)
)
_DUE = (
    select(Reservation.batch_number, Reservation.chunk_number)
    .where(Reservation.expires_at <= bindparam("now"))
    .limit(bindparam("max_rows"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_DELETE_DUE = (
    delete(Reservation)
    .where(
        tuple_(Reservation.batch_number, Reservation.chunk_number).in_(
            select(_DUE.c.batch_number, _DUE.c.chunk_number)
        )
    )
    .returning(
        *(Reservation.tenant, Reservation.batch_number, Reservation.chunk_number),
        *(Reservation.charged_at, Reservation.expires_at, *_COSTS),
    )
)


def insert_remaining_reservation(
    connection: Connection, batch_number: int, request: ChunkRequest, now: datetime
) -> None:
    """Insert the reservation for the chunks that have not arrived yet.

    The batch is closed when it expires, even if no cleanup has released it yet: see read_history.
    """
    items = request.message.total - len(request.message.items)
    if items:
        cost = reserved_cost(request.message.grant, items)
        row = _row(batch_number, REMAINING, request, items, cost)
        expires_at = now + batch_open_time(request.tenant)
        _INSERT.run(connection, row | {"charged_at": now, "expires_at": expires_at})


def take_from_remaining(connection: Connection, batch_number: int, request: ChunkRequest) -> bool:
    """Subtract a chunk's items from the remaining ones; return false if the batch is closed."""
    items = len(request.message.items)
    amounts = {"items": items} | _amounts(reserved_cost(request.message.grant, items))
    params = {f"minus_{name}": amount for name, amount in amounts.items()}
    rows = _TAKE.run(connection, {"batch": batch_number} | params)
    if rows and rows[0].items == 0:
        connection.execute(_CLOSE, {"batch": batch_number})
    return bool(rows)


def insert_chunk_reservations(
    connection: Connection,
    batch_numbers: Iterable[int],
    chunks: Iterable[tuple[ChunkRequest, ChunkDecision]],
    charged_at: datetime,
) -> None:
    """Insert the reservations of chunks: grants count in the window live until they expire."""
    rows = [
        _row(number, request.message.chunk, request, decision.issued, decision.cost)
        | {"charged_at": charged_at, "expires_at": decision.validity.expires_at}
        for number, (request, decision) in zip(batch_numbers, chunks, strict=True)
        if decision.cost != NO_COST
    ]
    _INSERT.run_each(connection, rows)


def _row(
    batch_number: int, chunk_number: int, request: ChunkRequest, items: int, cost: Cost
) -> dict[str, Any]:
    return {
        "batch_number": batch_number,
        "chunk_number": chunk_number,
        "tenant": request.tenant.id,
        "signing_key": request.signing_key,
        "items": items,
        **_amounts(cost),
    }


def _amounts(cost: Cost) -> dict[str, int]:
    return {metric: getattr(cost, metric) for metric in CHARGED_METRICS}


def _cost(row: Any) -> Cost:
    return Cost(**{metric: getattr(row, metric) for metric in CHARGED_METRICS})


def close_batch(connection: Connection, batch_number: int, tenant_id: str, now: datetime) -> int:
    """Release the reservation of a batch's missing chunks, and return its number of items."""
    row = connection.execute(_CLOSE, {"batch": batch_number}).one_or_none()
    if row is None:
        return 0
    release_completions(connection, [batch_number], now)
    quota_usage.release(connection, tenant_id, _cost(row), row.charged_at)
    return int(row.items)


def give_back_upload(
    connection: Connection, batch_number: int, item_number: int, size: int
) -> None:
    """Subtract the bytes of one granted upload from usage: storage has nothing of it.

    They leave every window in which they were charged; the grant itself stays counted.
    """
    batch = connection.execute(
        select(Batch.tenant, Batch.chunk_size, Batch.decided_at).where(
            Batch.batch_number == batch_number
        )
    ).one()
    chunk = batch_number, item_number // batch.chunk_size
    charged_at = _take_bytes(connection, chunk, size)
    if charged_at is None and is_settled(connection, *chunk):
        return  # the settlement gave them back
    # Without a row, the window live is released.
    windows = PAST_WINDOWS if charged_at is None else WINDOWS
    # The whole batch was charged with its first chunk.
    start = charged_at or batch.decided_at
    cost = Cost(upload_bytes=size)
    quota_usage.release_by_window(
        connection,
        {(batch.tenant, window, window_start(window, start)): cost for window in windows},
    )


def _take_bytes(connection: Connection, chunk: tuple[int, int], size: int) -> datetime | None:
    """Reduce what a chunk has reserved; return the time of its charge, None without such a row."""
    reservation = (
        update(Reservation)
        .where(Reservation.batch_number == chunk[0], Reservation.chunk_number == chunk[1])
        .values(upload_bytes=Reservation.upload_bytes - size)
        .returning(Reservation.charged_at)
    )
    slot = (
        update(EndedSlot)
        .where(*_is_slot(chunk), EndedSlot.is_settled.is_(False))
        .values(reserved_bytes=EndedSlot.reserved_bytes - size)
        .returning(EndedSlot.charged_at)
    )
    charged_at = connection.execute(reservation).scalar_one_or_none()
    return charged_at or connection.execute(slot).scalar_one_or_none()


def release_expired(connection: Connection, now: datetime, max_rows: int) -> int:
    """Release at most max_rows expired reservations; return how many there were.

    The transaction that deletes a row releases it, so each one is released once. Rows that another
    process is releasing are skipped. The bytes of upload slots stay charged until they are settled.
    """
    rows = connection.execute(_DELETE_DUE, {"now": now, "max_rows": max_rows}).all()
    chunks = [row for row in rows if row.chunk_number != REMAINING]
    insert_ended_slots(connection, chunks)
    closed = (row.batch_number for row in rows if row.chunk_number == REMAINING)
    release_completions(connection, closed, now)
    quota_usage.release_by_window(connection, _sum_by_window(rows))
    return len(rows)


def _sum_by_window(rows: Iterable[Any]) -> dict[quota_usage.UsageKey, Cost]:
    """Add up costs: expired grants leave the window live, missing chunks leave every window."""
    sums: dict[quota_usage.UsageKey, Cost] = {}
    for row in rows:
        is_chunk = row.chunk_number != REMAINING
        cost = _cost(row)._replace(upload_bytes=0) if is_chunk else _cost(row)
        for window in LIVE_WINDOWS if is_chunk else WINDOWS:
            key = (row.tenant, window, window_start(window, row.charged_at))
            sums[key] = sums.get(key, NO_COST).plus(cost)
    return sums


def count_live_grants(connection: Connection, now: datetime) -> dict[tuple[str, str | None], int]:
    """Count the grants that have not expired, by tenant id and name of the signing key."""
    query = (
        select(Reservation.tenant, Reservation.signing_key, func.sum(Reservation.items))
        .where(Reservation.chunk_number != REMAINING, Reservation.expires_at > now)
        .group_by(Reservation.tenant, Reservation.signing_key)
    )
    return {(tenant_id, key): int(items) for tenant_id, key, items in connection.execute(query)}

"""Reservations: a row for each chunk until its grants expire, and one for chunks yet to arrive.

A transaction that locks such a row and also charges or releases usage locks the reservation first.
The fixed order avoids deadlocks.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from models import Batch, Reservation
from worker.core.kinds.registry import reserved_cost
from worker.core.policy.decisions import ChunkDecision, ChunkRequest
from worker.core.quotas.cost import (
    CHARGED_METRICS,
    LIVE_WINDOWS,
    NO_COST,
    PAST_WINDOWS,
    WINDOWS,
    Cost,
    batch_open_time,
    window_start,
)
from worker.db import usage
from worker.db.statements.driver import DriverStatement
from worker.db.uses.ended_slots import insert_ended_slots, is_settled, take_reserved_bytes

REMAINING = -1
"""The chunk number, which no chunk has, of the row for chunks that have not arrived."""

_INSERT = DriverStatement(insert(Reservation))
_INSERT_ALL = insert(Reservation)
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


class ReservedItems(NamedTuple):
    """A number of items, and the cost reserved for them."""

    items: int
    cost: Cost


def insert_remaining_reservation(
    connection: Connection, batch_number: int, request: ChunkRequest, now: datetime
) -> None:
    """Insert the reservation for the chunks that have not arrived yet.

    The batch is closed when it expires, even if no cleanup has released it yet: see read_history.
    """
    items = request.message.total - len(request.message.items)
    if items:
        reserved = ReservedItems(items, reserved_cost(request.message.grant, items))
        row = _row(batch_number, REMAINING, request, reserved)
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


def insert_chunk_reservation(
    connection: Connection,
    batch_number: int,
    request: ChunkRequest,
    decision: ChunkDecision,
    charged_at: datetime,
) -> None:
    """Insert the reservation of a chunk: its grants count in the window live until they expire."""
    insert_chunk_reservations(connection, [batch_number], [request], [decision], charged_at)


def insert_chunk_reservations(
    connection: Connection,
    batch_numbers: Iterable[int],
    requests: Iterable[ChunkRequest],
    decisions: Iterable[ChunkDecision],
    charged_at: datetime,
) -> None:
    """Insert the reservations of chunks of several batches, as insert_chunk_reservation does."""
    rows = [
        _row(number, request.message.chunk, request, ReservedItems(decision.issued, decision.cost))
        | {"charged_at": charged_at, "expires_at": decision.validity.expires_at}
        for number, request, decision in zip(batch_numbers, requests, decisions, strict=True)
        if decision.cost != NO_COST
    ]
    if len(rows) == 1:
        _INSERT.run(connection, rows[0])
    elif rows:
        connection.execute(_INSERT_ALL, rows)


def _row(
    batch_number: int, chunk_number: int, request: ChunkRequest, reserved: ReservedItems
) -> dict[str, Any]:
    return {
        "batch_number": batch_number,
        "chunk_number": chunk_number,
        "tenant": request.tenant.id,
        "signing_key": request.signing_key,
        "items": reserved.items,
        **_amounts(reserved.cost),
    }


def _amounts(cost: Cost) -> dict[str, int]:
    return {metric: getattr(cost, metric) for metric in CHARGED_METRICS}


def _cost(row: Any) -> Cost:
    return Cost(**{metric: getattr(row, metric) for metric in CHARGED_METRICS})


def close_batch(connection: Connection, batch_number: int, tenant_id: str) -> int:
    """Release the reservation of a batch's missing chunks, and return its number of items."""
    row = connection.execute(_CLOSE, {"batch": batch_number}).one_or_none()
    if row is None:
        return 0
    usage.release(connection, tenant_id, _cost(row), row.charged_at)
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
    is_chunk = (
        Reservation.batch_number == batch_number,
        Reservation.chunk_number == item_number // batch.chunk_size,
    )
    charged_at = connection.execute(
        update(Reservation)
        .where(*is_chunk)
        .values(upload_bytes=Reservation.upload_bytes - size)
        .returning(Reservation.charged_at)
    ).scalar_one_or_none()
    if charged_at is None:
        chunk_number = item_number // batch.chunk_size
        charged_at = take_reserved_bytes(connection, batch_number, chunk_number, size)
        if charged_at is None and is_settled(connection, batch_number, chunk_number):
            return  # the settlement gave them back
    # Without a row, the window live is released.
    windows = PAST_WINDOWS if charged_at is None else WINDOWS
    # The whole batch was charged with its first chunk.
    start = charged_at or batch.decided_at
    cost = Cost(upload_bytes=size)
    usage.release_by_window(
        connection,
        {(batch.tenant, window, window_start(window, start)): cost for window in windows},
    )


def release_expired(connection: Connection, now: datetime, max_rows: int) -> int:
    """Release at most max_rows expired reservations; return how many there were.

    The transaction that deletes a row releases it, so each one is released once. Rows that another
    process is releasing are skipped. The bytes of upload slots stay charged until they are settled.
    """
    rows = connection.execute(_DELETE_DUE, {"now": now, "max_rows": max_rows}).all()
    chunks = [row for row in rows if row.chunk_number != REMAINING]
    insert_ended_slots(connection, chunks)
    usage.release_by_window(connection, _sum_by_window(rows))
    return len(rows)


def _sum_by_window(rows: Iterable[Any]) -> dict[usage.UsageKey, Cost]:
    """Add up costs: expired grants leave the window live, missing chunks leave every window."""
    sums: dict[usage.UsageKey, Cost] = {}
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

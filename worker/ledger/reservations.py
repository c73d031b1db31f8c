"""Reservations of chunks until their grants expire, and of the chunks that have not arrived.

A transaction that locks such a row and also charges or releases usage locks the reservation first.
The fixed order avoids deadlocks.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from models import Reservation
from worker import hooks
from worker.base.database_engine import DriverStatement
from worker.ledger import quota_usage
from worker.rules.decisions import ChunkDecision, ChunkRequest
from worker.rules.grant_kinds import reserved_cost
from worker.rules.quota_rules import (
    CHARGED_METRICS,
    LIVE_WINDOWS,
    NO_COST,
    WINDOWS,
    Cost,
    batch_open_time,
    window_start,
)

REMAINING = -1
"""The chunk number, which no chunk has, of the reservation for chunks that have not arrived."""

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
    .returning(Reservation.items, Reservation.charged_at, Reservation.expires_at, *_COSTS)
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
    released = tenant_id, batch_number, None, row.charged_at, row.expires_at, row.upload_bytes
    hooks.released(connection, [hooks.ReleasedRow(*released)], now)
    quota_usage.release(connection, tenant_id, _cost(row), row.charged_at)
    return int(row.items)


def release_expired(connection: Connection, now: datetime, max_rows: int) -> int:
    """Release at most max_rows expired reservations; return how many there were.

    The transaction that deletes a row releases it, so each one is released once. Rows that another
    process is releasing are skipped. A hook may keep the bytes of a chunk charged.
    """
    rows = connection.execute(_DELETE_DUE, {"now": now, "max_rows": max_rows}).all()
    released = [
        hooks.ReleasedRow(
            row.tenant,
            row.batch_number,
            None if row.chunk_number == REMAINING else row.chunk_number,
            row.charged_at,
            row.expires_at,
            row.upload_bytes,
        )
        for row in rows
    ]
    kept = hooks.released(connection, released, now)
    quota_usage.release_by_window(connection, _sum_by_window(rows, kept))
    return len(rows)


def _sum_by_window(
    rows: Iterable[Any], kept: Collection[tuple[int, int]]
) -> dict[quota_usage.UsageKey, Cost]:
    """Add up costs: expired grants leave the window live, missing chunks leave every window.

    kept are the chunks whose bytes stay charged.
    """
    sums: dict[quota_usage.UsageKey, Cost] = {}
    for row in rows:
        is_kept = (row.batch_number, row.chunk_number) in kept
        cost = _cost(row)._replace(upload_bytes=0) if is_kept else _cost(row)
        for window in WINDOWS if row.chunk_number == REMAINING else LIVE_WINDOWS:
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

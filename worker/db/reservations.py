"""What is reserved until it lapses: a row for each chunk, and one for those yet to arrive.

Who locks such a row and charges or releases locks it first: so nobody waits for each other.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from models import Reservation
from valetkey.wire.messages import ChunkMessage
from worker.core.policy.decisions import ChunkDecision, ChunkRequest
from worker.core.quotas.cost import (
    LIVE_WINDOWS,
    NO_COST,
    WINDOWS,
    Cost,
    reserved_cost,
    window_start,
)
from worker.db import usage

REMAINING = -1
"""The number, which no chunk has, of the row for chunks that have not arrived."""

OPEN_FOR = timedelta(days=1)
"""So long after its first chunk a batch takes others: as long as a message may be on its way."""

_INSERT = insert(Reservation)
_COSTS = (Reservation.grants, Reservation.download_grants, Reservation.upload_bytes)
_IS_REST = (Reservation.batch == bindparam("of"), Reservation.chunk == REMAINING)
_ARRIVED = (
    update(Reservation)
    .where(*_IS_REST)
    .values({cost: cost - bindparam(f"less_{cost.key}") for cost in (Reservation.items, *_COSTS)})
    .returning(Reservation.items)
)
_CLOSE = (
    delete(Reservation)
    .where(*_IS_REST)
    .returning(Reservation.items, Reservation.charged_at, *_COSTS)
)
_DUE = (
    select(Reservation.batch, Reservation.chunk)
    .where(Reservation.ends_at <= bindparam("now"))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_LAPSE = (
    delete(Reservation)
    .where(tuple_(Reservation.batch, Reservation.chunk).in_(select(_DUE.c.batch, _DUE.c.chunk)))
    .returning(Reservation.tenant, Reservation.chunk, Reservation.charged_at, *_COSTS)
)


class ReservedItems(NamedTuple):
    """So many items, and what is reserved for them."""

    items: int
    cost: Cost


def reserve_remaining(
    connection: Connection, batch: int, asked: ChunkRequest, now: datetime
) -> None:
    """Hold what the first chunk reserved for those still to come."""
    rest = asked.message.total - len(asked.message.items)
    if rest:
        held = ReservedItems(rest, reserved_cost(asked.message.grant, rest))
        connection.execute(_INSERT, _row(batch, REMAINING, asked, held, now, now + OPEN_FOR))


def take_from_remaining(connection: Connection, batch: int, message: ChunkMessage) -> bool:
    """Take a chunk's part out of what has not arrived; False where the batch takes no more."""
    items = len(message.items)
    less = {"items": items, **reserved_cost(message.grant, items)._asdict()}
    row = connection.execute(_ARRIVED, {"of": batch} | {f"less_{n}": v for n, v in less.items()})
    left = row.scalar_one_or_none()
    if left == 0:
        connection.execute(_CLOSE, {"of": batch})
    return left is not None


def reserve_chunk(
    connection: Connection,
    batch: int,
    asked: ChunkRequest,
    decided: ChunkDecision,
    charged_at: datetime,
) -> None:
    """Hold what a chunk was granted until its grants lapse."""
    if decided.price != NO_COST:
        held = ReservedItems(decided.issued, decided.price)
        row = _row(batch, asked.message.chunk, asked, held, charged_at, decided.life.expires_at)
        connection.execute(_INSERT, row)


def _row(  # noqa: PLR0913, PLR0917 - the columns of a row
    batch: int,
    chunk: int,
    asked: ChunkRequest,
    held: ReservedItems,
    charged_at: datetime,
    ends_at: datetime,
) -> dict[str, Any]:
    return {
        "batch": batch,
        "chunk": chunk,
        "tenant": asked.tenant.name,
        "key": asked.key,
        "items": held.items,
        **held.cost._asdict(),
        "charged_at": charged_at,
        "ends_at": ends_at,
    }


def close_batch(connection: Connection, batch: int, tenant: str) -> ReservedItems:
    """Grant no more of a batch, and release what was reserved for the rest of it."""
    row = connection.execute(_CLOSE, {"of": batch}).one_or_none()
    if row is None:
        return ReservedItems(0, NO_COST)
    cost = Cost(*row[2:])
    usage.release(connection, tenant, cost, row.charged_at)
    return ReservedItems(row.items, cost)


def release_expired(connection: Connection, now: datetime, most: int) -> int:
    """Release what has lapsed, at most so many rows; return how many there were.

    The deleted row is the right to release, so whatever happens it is used once; what another
    process is releasing is left to it.
    """
    lapsed = connection.execute(_LAPSE, {"now": now, "most": most}).all()
    usage.release_all(connection, _sums(lapsed))
    return len(lapsed)


def _sums(lapsed: Iterable[Any]) -> dict[usage.UsageKey, Cost]:
    """Add up by window: grants that ended are no longer live, what never came is not charged."""
    sums: dict[usage.UsageKey, Cost] = {}
    for row in lapsed:
        for window in WINDOWS if row.chunk == REMAINING else LIVE_WINDOWS:
            place = (row.tenant, window, window_start(window, row.charged_at))
            sums[place] = sums.get(place, NO_COST).plus(Cost(*row[3:]))
    return sums


def live_grants(connection: Connection, now: datetime) -> dict[tuple[str, str | None], int]:
    """Count the grants that have not lapsed, by tenant and the name of the key that asked."""
    query = (
        select(Reservation.tenant, Reservation.key, func.sum(Reservation.items))
        .where(Reservation.chunk != REMAINING, Reservation.ends_at > now)
        .group_by(Reservation.tenant, Reservation.key)
    )
    return {(row[0], row[1]): int(row[2]) for row in connection.execute(query)}

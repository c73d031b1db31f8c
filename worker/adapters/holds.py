"""What is reserved until it lapses: a row for each chunk, and one for those yet to arrive.

Who locks such a row and charges or releases locks it first: so nobody waits for each other.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from models import Hold
from valetkey.messages import Message
from worker.adapters import usage
from worker.core.decisions import Asked, Decided
from worker.core.quotas import LIVE, NOTHING, WINDOWS, Cost, reserve, start

REST = -1
"""The number, which no chunk has, of the row for chunks that have not arrived."""

OPEN = timedelta(days=1)
"""So long after its first chunk a batch takes others: as long as a message may be on its way."""

_INSERT = insert(Hold)
_COSTS = (Hold.grants, Hold.download_grants, Hold.upload_bytes)
_IS_REST = (Hold.batch == bindparam("of"), Hold.chunk == REST)
_ARRIVED = (
    update(Hold)
    .where(*_IS_REST)
    .values({cost: cost - bindparam(f"less_{cost.key}") for cost in (Hold.items, *_COSTS)})
    .returning(Hold.items)
)
_CLOSE = delete(Hold).where(*_IS_REST).returning(Hold.items, Hold.charged_at, *_COSTS)
_DUE = (
    select(Hold.batch, Hold.chunk)
    .where(Hold.ends_at <= bindparam("now"))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_LAPSE = (
    delete(Hold)
    .where(tuple_(Hold.batch, Hold.chunk).in_(select(_DUE.c.batch, _DUE.c.chunk)))
    .returning(Hold.tenant, Hold.chunk, Hold.charged_at, *_COSTS)
)


class Held(NamedTuple):
    """So many items, and what is reserved for them."""

    items: int
    cost: Cost


def open_rest(connection: Connection, batch: int, asked: Asked, now: datetime) -> None:
    """Hold what the first chunk reserved for those still to come."""
    rest = asked.message.total - len(asked.message.items)
    if rest:
        held = Held(rest, reserve(asked.message.grant, rest))
        connection.execute(_INSERT, _row(batch, REST, asked, held, now, now + OPEN))


def arrived(connection: Connection, batch: int, message: Message) -> bool:
    """Take a chunk's part out of what has not arrived; False where the batch takes no more."""
    items = len(message.items)
    less = {"items": items, **reserve(message.grant, items)._asdict()}
    row = connection.execute(_ARRIVED, {"of": batch} | {f"less_{n}": v for n, v in less.items()})
    left = row.scalar_one_or_none()
    if left == 0:
        connection.execute(_CLOSE, {"of": batch})
    return left is not None


def hold(
    connection: Connection, batch: int, asked: Asked, decided: Decided, charged_at: datetime
) -> None:
    """Hold what a chunk was granted until its grants lapse."""
    if decided.price != NOTHING:
        held = Held(decided.issued, decided.price)
        row = _row(batch, asked.message.chunk, asked, held, charged_at, decided.life.expires_at)
        connection.execute(_INSERT, row)


def _row(  # noqa: PLR0913, PLR0917 - the columns of a row
    batch: int, chunk: int, asked: Asked, held: Held, charged_at: datetime, ends_at: datetime
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


def close(connection: Connection, batch: int, tenant: str) -> Held:
    """Grant no more of a batch, and release what was reserved for the rest of it."""
    row = connection.execute(_CLOSE, {"of": batch}).one_or_none()
    if row is None:
        return Held(0, NOTHING)
    cost = Cost(*row[2:])
    usage.release(connection, tenant, cost, row.charged_at)
    return Held(row.items, cost)


def release_lapsed(connection: Connection, now: datetime, most: int) -> int:
    """Release what has lapsed, at most so many rows; return how many there were.

    The deleted row is the right to release, so whatever happens it is used once; what another
    process is releasing is left to it.
    """
    lapsed = connection.execute(_LAPSE, {"now": now, "most": most}).all()
    usage.release_all(connection, _sums(lapsed))
    return len(lapsed)


def _sums(lapsed: Iterable[Any]) -> dict[usage.Place, Cost]:
    """Add up by window: grants that ended are no longer live, what never came is not charged."""
    sums: dict[usage.Place, Cost] = {}
    for row in lapsed:
        for window in WINDOWS if row.chunk == REST else LIVE:
            place = (row.tenant, window, start(window, row.charged_at))
            sums[place] = sums.get(place, NOTHING).plus(Cost(*row[3:]))
    return sums


def live(connection: Connection, now: datetime) -> dict[tuple[str, str | None], int]:
    """Count the grants that have not lapsed, by tenant and the name of the key that asked."""
    query = (
        select(Hold.tenant, Hold.key, func.sum(Hold.items))
        .where(Hold.chunk != REST, Hold.ends_at > now)
        .group_by(Hold.tenant, Hold.key)
    )
    return {(row[0], row[1]): int(row[2]) for row in connection.execute(query)}

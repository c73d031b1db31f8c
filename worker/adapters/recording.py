"""The transaction that decides a chunk: opened, charged, recorded, queued for delivery at once."""

import json
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from models import Base, Batch, Cancellation, Chunk, Delivery, Grant
from valetkey.messages import Message
from valetkey.refusals import Code, QuotaState, Refusal
from worker.adapters import holds, usage
from worker.adapters.database import insert_rows
from worker.adapters.multiparts import remember
from worker.core import quotas
from worker.core.decisions import Asked, Decided, fingerprint, refuse_all
from worker.core.quotas import Cost, Used
from worker.core.tenancy import Tenant

# Built once: to build a statement takes longer than to run it.
_FIND = (
    select(
        Batch.number,
        Batch.fingerprint,
        Batch.refusal,
        Batch.decided_at,
        Chunk.fingerprint.label("content"),
    )
    .outerjoin(Chunk, and_(Chunk.batch == Batch.number, Chunk.number == bindparam("chunk")))
    .where(Batch.tenant == bindparam("tenant"), Batch.id == bindparam("id"))
)
_CANCELLED = select(Cancellation.batch).where(
    Cancellation.tenant == bindparam("tenant"), Cancellation.batch == bindparam("id")
)
_OPEN = insert(Batch).returning(Batch.number)
_CLAIM = insert(Chunk)

CONFLICT = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this batch id, or this chunk of it, was used with other content",
)
CLOSED = Refusal(
    code=Code.BATCH_CLOSED,
    field="batch",
    message="the batch was cancelled, or began so long ago that no more of it is granted",
)


class Seen(NamedTuple):
    """A chunk that was committed before, by the number of its batch."""

    batch: int


class _Opened(NamedTuple):
    """A batch as it stands: content is of the chunk in hand, used is known to who opened it."""

    number: int
    fingerprint: bytes
    refusal: Refusal | None
    decided_at: datetime
    content: bytes | None = None
    used: Used | None = None


def record(
    connection: Connection, asked: Asked, decided: Decided, now: datetime
) -> Decided | Seen | Refusal:
    """Write a chunk's decision unless it is written; the first chunk decides for its batch.

    Raises IntegrityError where another process writes the same chunk in this moment: what it wrote
    is found when this is tried again.
    """
    message = asked.message
    batch = _find_or_open(connection, asked, decided, now)
    if batch.fingerprint != _header(message):
        return CONFLICT
    if batch.content is not None:
        return Seen(batch.number) if batch.content == _items(message) else CONFLICT
    if batch.refusal is not None:
        decided = refuse_all(message, batch.refusal, now)
    elif batch.used is None:
        decided = _later(connection, batch, message, decided, now)
    _claim(connection, batch.number, asked, decided)
    _write(connection, batch.number, decided)
    remember(connection, batch.number, message, decided)
    holds.hold(connection, batch.number, asked, decided, batch.decided_at)
    if message.callback in asked.tenant.endpoints:
        _queue(connection, batch.number, message, now)
    return replace(decided, quotas=standing(connection, asked.tenant, now, batch.used))


def standing(
    connection: Connection, tenant: Tenant, now: datetime, used: Used | None = None
) -> list[QuotaState]:
    """How a tenant's quotas stand; what is used is read where it is not known."""
    limits = quotas.effective(tenant, now)
    if used is None and limits:
        used = usage.used(connection, tenant.name, now)
    return quotas.states(limits, used or {}, now)


def _find_or_open(connection: Connection, asked: Asked, decided: Decided, now: datetime) -> _Opened:
    found = _find(connection, asked.message)
    if found is None:
        usage.lock(connection, asked.tenant.name)
        found = _find(connection, asked.message)
    return found or _open(connection, asked, decided, now)


def _find(connection: Connection, message: Message) -> _Opened | None:
    one = {"tenant": message.tenant, "id": message.batch, "chunk": message.chunk}
    row = connection.execute(_FIND, one).one_or_none()
    if row is None:
        return None
    refusal = None if row.refusal is None else Refusal.model_validate(row.refusal)
    return _Opened(row.number, row.fingerprint, refusal, row.decided_at, row.content)


def _open(connection: Connection, asked: Asked, decided: Decided, now: datetime) -> _Opened:
    message = asked.message
    used = usage.used(connection, message.tenant, now)
    cost = quotas.reserve(message.grant, message.total).less(_saved(message, decided))
    limits = quotas.effective(asked.tenant, now)
    refusal = _cancelled(connection, message) or decided.refusal
    refusal = refusal or quotas.refused(limits, used, cost, now)
    values = message.model_dump(include={"tenant", "requested_by", "reason", "callback"})
    values |= message.model_dump(include={"total", "chunk_size"})
    values |= {
        "id": message.batch,
        "bucket": message.grant.bucket,
        "kind": message.grant.kind,
        "terms": message.grant.model_dump(mode="json", exclude_none=True),
        "fingerprint": _header(message),
        "refusal": None if refusal is None else _json(refusal),
        "decided_at": now,
    }
    number = connection.execute(_OPEN, values).scalar_one()
    if refusal is None:
        usage.charge(connection, message.tenant, cost, now)
        holds.open_rest(connection, number, asked, now)
        used = quotas.together(used, cost)
    return _Opened(number, values["fingerprint"], refusal, now, None, used)


def _cancelled(connection: Connection, message: Message) -> Refusal | None:
    one = {"tenant": message.tenant, "id": message.batch}
    return CLOSED if connection.execute(_CANCELLED, one).first() else None


def _later(
    connection: Connection, batch: _Opened, message: Message, decided: Decided, now: datetime
) -> Decided:
    """What the first chunk reserved for a later one is taken by it, but for what it saves."""
    if not holds.arrived(connection, batch.number, message):
        return refuse_all(message, CLOSED, now)
    usage.release(connection, message.tenant, _saved(message, decided), batch.decided_at)
    return decided


def _saved(message: Message, decided: Decided) -> Cost:
    """What a chunk cost less than was reserved for it: refused items, and exact sizes."""
    return quotas.reserve(message.grant, len(message.items)).less(decided.price)


def _claim(connection: Connection, batch: int, asked: Asked, decided: Decided) -> None:
    values = {
        "batch": batch,
        "number": asked.message.chunk,
        "fingerprint": _items(asked.message),
        "issued": decided.issued,
        "refused": len(decided.rows) - decided.issued,
        **decided.life._asdict(),
        "access_key": decided.access_key,
        "refusal": None if decided.refusal is None else _json(decided.refusal),
        "key": asked.key,
    }
    connection.execute(_CLAIM, values)


def insert_once(connection: Connection, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row and say so, or leave alone what has its key; waits for who inserts it now."""
    statement = _inserting_once(table, connection.dialect.name)
    return connection.execute(statement, values).first() is not None


@cache
def _inserting_once(table: type[Base], dialect: str) -> ReturningInsert[tuple[int]]:
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return statement.on_conflict_do_nothing().returning(literal(1))


def _write(connection: Connection, batch: int, decided: Decided) -> None:
    rows = [
        (batch, row.number, row.key, row.code, row.detail and json.dumps(row.detail), row.digest)
        for row in decided.rows
    ]
    columns = ("batch", "number", "key", "code", "detail", "digest")
    insert_rows(connection, Grant.__tablename__, columns, rows)


def _queue(connection: Connection, batch: int, message: Message, now: datetime) -> None:
    values = {
        "batch": batch,
        "chunk": message.chunk,
        "tenant": message.tenant,
        "endpoint": message.callback,
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": now,
        "created_at": now,
    }
    connection.execute(insert(Delivery).values(values))


def _header(message: Message) -> bytes:
    return fingerprint(json.dumps(message.header(), sort_keys=True))


def _items(message: Message) -> bytes:
    items = [item.model_dump(mode="json", exclude_none=True) for item in message.items]
    return fingerprint(json.dumps(items, sort_keys=True))


def _json(refusal: Refusal) -> dict[str, Any]:
    return refusal.model_dump(mode="json", exclude_none=True)

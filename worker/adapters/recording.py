"""The transaction that decides a chunk: opened, charged, recorded, queued for delivery at once."""

import json
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from models import Base, Batch, Chunk, Delivery, Grant
from valetkey.messages import Message
from valetkey.refusals import Code, Metric, Refusal
from worker.adapters import usage
from worker.adapters.database import insert_rows
from worker.adapters.multiparts import remember
from worker.core import quotas
from worker.core.decisions import Decided, fingerprint, refuse_all
from worker.core.tenancy import Tenant

# Built once: to build a statement takes longer than to run it.
_FIND = select(Batch.number, Batch.fingerprint, Batch.refusal, Batch.decided_at).where(
    Batch.id == bindparam("id")
)
_OPEN = insert(Batch).returning(Batch.number)

CONFLICT = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this batch id, or this chunk of it, was used with other content",
)


class Seen(NamedTuple):
    """A chunk that was committed before, by the number of its batch."""

    batch: int


class _Opened(NamedTuple):
    number: int
    fingerprint: bytes
    refusal: Refusal | None
    decided_at: datetime


def record(
    connection: Connection, message: Message, decided: Decided, tenant: Tenant | None, now: datetime
) -> Decided | Seen | Refusal:
    """Write a chunk's decision unless it is written; the first chunk decides for its batch."""
    batch, first = _find_or_open(connection, message, decided, tenant, now)
    if batch.fingerprint != _header(message):
        return CONFLICT
    if batch.refusal is not None:
        decided = refuse_all(message, batch.refusal, now)
    if not _claim(connection, batch.number, message, decided):
        same = _content(connection, batch.number, message.chunk) == _items(message)
        return Seen(batch.number) if same else CONFLICT
    _write(connection, batch.number, decided)
    remember(connection, batch.number, message, decided)
    if not first and batch.refusal is None:
        back = quotas.charges(_saved(message, decided), batch.decided_at)
        usage.release(connection, message.tenant, back)
    if tenant is not None and message.callback in tenant.endpoints:
        _queue(connection, batch.number, message, now)
    return decided


def _find_or_open(
    connection: Connection, message: Message, decided: Decided, tenant: Tenant | None, now: datetime
) -> tuple[_Opened, bool]:
    found = _find(connection, message.batch)
    if found is None:
        usage.lock(connection, message.tenant)
        found = _find(connection, message.batch)
    if found is not None:
        return found, False
    return _open(connection, message, decided, tenant, now), True


def _find(connection: Connection, batch: str) -> _Opened | None:
    row = connection.execute(_FIND, {"id": batch}).one_or_none()
    if row is None:
        return None
    refusal = None if row.refusal is None else Refusal.model_validate(row.refusal)
    return _Opened(row.number, row.fingerprint, refusal, row.decided_at)


def _open(
    connection: Connection, message: Message, decided: Decided, tenant: Tenant | None, now: datetime
) -> _Opened:
    refusal = decided.refusal or _charge(connection, message, decided, tenant, now)
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
    return _Opened(number, values["fingerprint"], refusal, now)


def _charge(
    connection: Connection, message: Message, decided: Decided, tenant: Tenant | None, now: datetime
) -> Refusal | None:
    reserved, saved = quotas.reserve(message.grant, message.total), _saved(message, decided)
    net = {metric: amount - saved[metric] for metric, amount in reserved.items()}
    asked = quotas.charges(net, now)
    used = usage.used(connection, message.tenant, asked)
    refusal = quotas.refused(tenant.quotas if tenant else (), used, asked, now)
    if refusal is None:
        usage.charge(connection, message.tenant, asked)
    return refusal


def _saved(message: Message, decided: Decided) -> dict[Metric, int]:
    """What a chunk cost less than was reserved for it: refused items, and exact sizes."""
    reserved = quotas.reserve(message.grant, len(message.items))
    return {metric: n - decided.price.get(metric, 0) for metric, n in reserved.items()}


def _claim(connection: Connection, batch: int, message: Message, decided: Decided) -> bool:
    values = {
        "batch": batch,
        "number": message.chunk,
        "fingerprint": _items(message),
        "issued": decided.issued,
        "refused": len(decided.rows) - decided.issued,
        **decided.life._asdict(),
        "access_key": decided.access_key,
        "refusal": None if decided.refusal is None else _json(decided.refusal),
    }
    return insert_once(connection, Chunk, values)


def insert_once(connection: Connection, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row and say so, or leave alone what has its key; waits for who inserts it now."""
    statement = _inserting_once(table, connection.dialect.name)
    return connection.execute(statement, values).first() is not None


@cache
def _inserting_once(table: type[Base], dialect: str) -> ReturningInsert[tuple[int]]:
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return statement.on_conflict_do_nothing().returning(literal(1))


def _content(connection: Connection, batch: int, chunk: int) -> bytes:
    query = select(Chunk.fingerprint).where(Chunk.batch == batch, Chunk.number == chunk)
    return connection.execute(query).scalar_one()


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

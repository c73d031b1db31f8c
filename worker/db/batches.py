"""The transaction that decides a chunk: opened, charged, recorded, queued for delivery at once."""

from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, literal, select

from models import Batch, Cancellation, Chunk, Reservation
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import QuotaState, Refusal
from worker.core.policy.decisions import ChunkDecision, refuse_chunk
from worker.core.policy.history import BATCH_CLOSED, BATCH_CONFLICT
from worker.core.quotas.cost import (
    CEILINGS,
    NO_COST,
    add_cost,
    effective_quotas,
    quota_refusal,
    quota_states,
    reserved_cost,
)
from worker.core.tenants.config import Tenant
from worker.db import reservations, usage
from worker.db.batch_rows import ChunkWrite, write_batch, write_chunk
from worker.db.engine import advisory_lock

# Built once: to build a statement takes longer than to run it. It finds one row, whatever is there.
_ONE = select(literal(1).label("one")).subquery()
_BATCH = and_(Batch.tenant == bindparam("of"), Batch.id == bindparam("id"))
_CHUNK = and_(Chunk.batch == Batch.number, Chunk.number == bindparam("chunk"))
_REST = and_(Reservation.batch == Batch.number, Reservation.chunk == reservations.REMAINING)
_END = and_(Cancellation.tenant == bindparam("of"), Cancellation.batch == bindparam("id"))
_FIND = select(
    Batch.number,
    Batch.fingerprint,
    Batch.refusal,
    Batch.decided_at,
    Chunk.fingerprint.label("content"),
    Reservation.items.label("rest"),
    Cancellation.at.label("cancelled_at"),
).select_from(
    _ONE.outerjoin(Batch, _BATCH)
    .outerjoin(Chunk, _CHUNK)
    .outerjoin(Reservation, _REST)
    .outerjoin(Cancellation, _END)
)


class ConcurrentChange(Exception):
    """Another process committed in this moment what changes the decision."""


class AlreadyRecorded(NamedTuple):
    """A chunk that was committed before, by the number of its batch."""

    batch: int


def record_chunk(
    connection: Connection, entry: ChunkWrite
) -> ChunkDecision | AlreadyRecorded | Refusal:
    """Write a chunk's decision unless it is written; the first chunk decides for its batch.

    Raises Overtaken, or IntegrityError where it is this very chunk: what the other process wrote
    is found when this is tried again.
    """
    found = _find(connection, entry.asked.message)
    if found.number is None:
        return _first(connection, entry, is_cancelled=found.cancelled_at is not None)
    if found.fingerprint != entry.header or found.content not in {None, entry.content}:
        return BATCH_CONFLICT
    if found.content is not None:
        return AlreadyRecorded(found.number)
    return _later(connection, entry, found)


def _find(connection: Connection, message: ChunkMessage) -> Any:
    # Most often chunk 0 opens its batch, and every other one finds it open.
    if message.chunk == 0:
        lock_batch(connection, message.tenant, message.batch)
    one = {"of": message.tenant, "id": message.batch, "chunk": message.chunk}
    found = connection.execute(_FIND, one).one()
    if found.number is None and message.chunk != 0:
        lock_batch(connection, message.tenant, message.batch)
        found = connection.execute(_FIND, one).one()
    return found


def lock_batch(connection: Connection, tenant: str, batch: str) -> None:
    """Hold off whoever opens or cancels this batch until the transaction ends."""
    advisory_lock(connection, f"{tenant}/{batch}")


def _first(connection: Connection, entry: ChunkWrite, *, is_cancelled: bool) -> ChunkDecision:
    """Open the batch: charge for all of it, or refuse all of it."""
    (message, tenant, _), decided, now = entry.asked, entry.decided, entry.at
    refusal = BATCH_CLOSED if is_cancelled else decided.refusal
    reserved = reserved_cost(message.grant, message.total).less(entry.saved)
    cost = reserved if refusal is None else NO_COST
    used = usage.charge(connection, tenant.name, cost, now)
    limits = effective_quotas(tenant, now)
    refusal = refusal or quota_refusal((*limits, *CEILINGS), used, cost, now)
    batch = write_batch(connection, entry, refusal)
    if refusal is None:
        used = add_cost(used, cost)
        reservations.reserve_remaining(connection, batch, entry.asked, now)
    else:
        usage.release(connection, tenant.name, cost, now)
        decided = refuse_chunk(message, refusal, now)
    write_chunk(connection, batch, entry, decided, now)
    return replace(decided, quotas=quota_states(limits, used, now))


def _later(connection: Connection, entry: ChunkWrite, found: Any) -> ChunkDecision:
    """Take for a later chunk what the first one reserved for it, but for what it saves."""
    (message, tenant, _), decided, now = entry.asked, entry.decided, entry.at
    refusal = None if found.refusal is None else Refusal.model_validate(found.refusal)
    if refusal is None and found.rest is None:
        refusal = BATCH_CLOSED
    if refusal is not None:
        decided = refuse_chunk(message, refusal, now)
    write_chunk(connection, found.number, entry, decided, found.decided_at)
    if refusal is None:
        # Last, as the batch's other chunks then wait for it.
        if not reservations.take_from_remaining(connection, found.number, message):
            raise ConcurrentChange
        usage.release(connection, tenant.name, entry.saved, found.decided_at)
    return replace(decided, quotas=current_quotas(connection, tenant, now))


def current_quotas(connection: Connection, tenant: Tenant, now: datetime) -> list[QuotaState]:
    """How a tenant's quotas stand."""
    limits = effective_quotas(tenant, now)
    return (
        quota_states(limits, usage.read_usage(connection, tenant.name, now), now) if limits else []
    )

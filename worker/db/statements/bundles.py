"""Writes several new batches of one tenant and one chunk each, within the caller's transaction."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, union_all

from models import Batch, Cancellation
from worker.core.policy.decisions import ChunkDecision
from worker.core.policy.request_rules import calls_back
from worker.core.tree.records import encode_record
from worker.db.batches import (
    InsertedBatch,
    NewChunk,
    admit_uncharged,
    batch_values,
    chunk_leaf,
    insert_chunks,
)
from worker.db.outbox import delivery_values, insert_deliveries
from worker.db.reservations import insert_chunk_reservations
from worker.db.tree.append import append_leaves
from worker.db.usage import charge_uncharged

# Statements are built once: building one takes longer than running it.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name"
_FIND = union_all(
    *(
        select(table.batch_id).where(
            table.tenant == bindparam("of_tenant"),
            table.batch_id.in_(bindparam("ids", expanding=True)),
        )
        for table in (Batch, Cancellation)
    )
)
_INSERT = insert(Batch).returning(Batch.batch_number, sort_by_parameter_order=True)


def lock_batches(connection: Connection, tenant_id: str, batch_ids: Iterable[str]) -> None:
    """Lock several batch ids as `lock_batch` does, always in the same order."""
    if connection.dialect.name != "sqlite":
        names = sorted(f"{tenant_id}/{batch_id}" for batch_id in batch_ids)
        connection.exec_driver_sql(_LOCK, (names,))


def known_batches(connection: Connection, tenant_id: str, batch_ids: Sequence[str]) -> set[str]:
    """Return those of these batch ids that were requested or cancelled before."""
    return set(connection.scalars(_FIND, {"of_tenant": tenant_id, "ids": batch_ids}))


def insert_new_batches(
    connection: Connection,
    chunks: Sequence[NewChunk],
    decisions: Sequence[ChunkDecision],
    now: datetime,
) -> None:
    """Insert batches that are decided now, with all that follows from their decisions.

    Call it last in the transaction, as `append_leaf` says. Raises NotRecorded as `admit_uncharged`
    does.
    """
    uncharged = admit_uncharged(connection, chunks, decisions)
    requests = [chunk.request for chunk in chunks]
    batches = _insert_batches(connection, chunks, decisions)
    numbers = [batch.batch_number for batch in batches]
    records = insert_chunks(connection, numbers, chunks, decisions)
    insert_chunk_reservations(connection, numbers, requests, decisions, now)
    deliveries = [
        delivery_values(number, request, decision, now)
        for number, request, decision in zip(numbers, requests, decisions, strict=True)
        if calls_back(request.tenant, request.message)
    ]
    insert_deliveries(connection, deliveries)
    charge_uncharged(connection, requests[0].tenant.id, uncharged, now)
    leaves = map(chunk_leaf, batches, chunks, decisions, records)
    append_leaves(connection, requests[0].tenant.id, leaves)


def _insert_batches(
    connection: Connection, chunks: Sequence[NewChunk], decisions: Sequence[ChunkDecision]
) -> list[InsertedBatch]:
    rows = [
        batch_values(chunk, decision.refusal)
        for chunk, decision in zip(chunks, decisions, strict=True)
    ]
    numbers = connection.scalars(_INSERT, rows)
    return [
        InsertedBatch(number, encode_record("batch", values))
        for number, values in zip(numbers, rows, strict=True)
    ]

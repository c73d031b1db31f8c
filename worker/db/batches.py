"""Writes the rows of batches, chunks and grants, within the caller's transaction."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, insert

from models import Batch, Cancellation, Chunk, Grant, Reissue
from valetkey.wire.messages import CancelMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import Parts
from worker.core.kinds.registry import reserved_cost
from worker.core.policy.decisions import ChunkDecision, ChunkRequest, RecordedChunk
from worker.core.policy.fingerprints import (
    fingerprint,
    header_fingerprint,
    items_fingerprint,
    recorded_terms,
)
from worker.core.policy.uncharged import NotRecorded, uncharged_bytes
from worker.core.quotas.cost import Cost
from worker.core.tree.merkle import RightEdge
from worker.core.tree.records import (
    chunk_record,
    encode_record,
    entry_hash,
    items_edge,
    reissue_record,
)
from worker.db.engine import acquire_advisory_lock
from worker.db.inserts import insert_once, insert_rows
from worker.db.multiparts import take_paid_parts
from worker.db.retention.partitions import partition_key
from worker.db.statements.driver import DriverStatement
from worker.db.tree.append import NewLeaf, append_leaf
from worker.db.usage import is_beyond_ceiling

# Statements are built once: building one takes longer than running it.
_INSERT_BATCH = DriverStatement(insert(Batch).returning(Batch.batch_number))
_INSERT_CHUNK = DriverStatement(insert(Chunk))
_INSERT_CHUNKS = insert(Chunk)
_GRANT_COLUMNS = ("batch_number", "item_number", "object_key", "code", "detail", "digest")


class NewChunk(NamedTuple):
    """A decision to write, with its fingerprints and the tree of its items' records.

    They are computed before the transaction starts, because other transactions wait for it.
    """

    request: ChunkRequest
    decision: ChunkDecision
    now: datetime
    header_fingerprint: bytes
    items_fingerprint: bytes
    items_edge: RightEdge

    @classmethod
    def prepare(cls, request: ChunkRequest, decision: ChunkDecision, now: datetime) -> Self:
        """Compute what depends only on the decision."""
        message = request.message
        fingerprints = header_fingerprint(message), items_fingerprint(message)
        return cls(request, decision, now, *fingerprints, items_edge(decision.rows))

    @property
    def unused_cost(self) -> Cost:
        """The part of the chunk's reserved cost that it does not need: refusals, exact sizes."""
        message = self.request.message
        return reserved_cost(message.grant, len(message.items)).minus(self.decision.cost)


def lock_batch(connection: Connection, tenant_id: str, batch_id: str) -> None:
    """Lock a batch id until the transaction ends: no other one opens or cancels the batch."""
    acquire_advisory_lock(connection, f"{tenant_id}/{batch_id}")


class InsertedBatch(NamedTuple):
    """The number of a batch, and its record if this transaction inserted it."""

    batch_number: int
    record: bytes | None = None


def insert_batch(connection: Connection, chunk: NewChunk, refusal: Refusal | None) -> InsertedBatch:
    """Insert the batch that a chunk opens."""
    values = batch_values(chunk, refusal)
    ((batch_number,),) = _INSERT_BATCH.run(connection, values)
    return InsertedBatch(batch_number, encode_record("batch", values))


def batch_values(chunk: NewChunk, refusal: Refusal | None) -> dict[str, Any]:
    """Return the row of the batch that a chunk opens."""
    message = chunk.request.message
    return {
        "batch_id": message.batch,
        "tenant": chunk.request.tenant.id,
        "bucket": message.grant.bucket,
        "kind": message.grant.kind,
        "requested_by": message.requested_by,
        "reason": message.reason,
        "recipient": message.recipient,
        "terms": recorded_terms(message.grant, message.grant.kind),
        "total": message.total,
        "chunk_size": message.chunk_size,
        "callback": message.callback,
        "notify": message.notify,
        "reissue_of": chunk.request.reissue_of,
        "fingerprint": chunk.header_fingerprint,
        "refusal": _json(refusal),
        "decided_at": chunk.now,
    }


def insert_chunk(
    connection: Connection, batch_number: int, chunk: NewChunk, decision: ChunkDecision
) -> bytes:
    """Insert a chunk and the audit rows of its items. Returns the chunk's record."""
    return insert_chunks(connection, [batch_number], [chunk], [decision])[0]


def insert_chunks(
    connection: Connection,
    batch_numbers: Sequence[int],
    chunks: Sequence[NewChunk],
    decisions: Sequence[ChunkDecision],
) -> list[bytes]:
    """Insert chunks of one month and the audit rows of their items. Returns their records."""
    written = list(zip(batch_numbers, chunks, decisions, strict=True))
    values = [_chunk_values(*each) for each in written]
    if len(values) > 1:
        connection.execute(_INSERT_CHUNKS, values)
    else:
        _INSERT_CHUNK.run(connection, values[0])
    month = partition_key(connection, decisions[0].validity.issued_at)
    columns = (*_GRANT_COLUMNS, "month") if month else _GRANT_COLUMNS
    rows = [
        (
            batch_number,
            row.item_number,
            row.object_key,
            row.code,
            row.detail and json.dumps(row.detail),
            row.digest,
            *month,
        )
        for batch_number, _, decision in written
        for row in decision.rows
    ]
    insert_rows(connection, Grant.__tablename__, columns, rows)
    return [
        chunk_record(chunk.request.tenant.id, chunk.request.message.batch, each)
        for chunk, each in zip(chunks, values, strict=True)
    ]


def _chunk_values(batch_number: int, chunk: NewChunk, decision: ChunkDecision) -> dict[str, Any]:
    issued = decision.issued
    return {
        "batch_number": batch_number,
        "chunk_number": chunk.request.message.chunk,
        "fingerprint": chunk.items_fingerprint,
        "issued": issued,
        "refused": len(decision.rows) - issued,
        **decision.validity._asdict(),
        "access_key": decision.access_key,
        "refusal": _json(decision.refusal),
        "signing_key": chunk.request.signing_key,
    }


def append_chunk_leaf(
    connection: Connection,
    batch: InsertedBatch,
    chunk: NewChunk,
    decision: ChunkDecision,
    record: bytes,
) -> None:
    """Append the leaf of a chunk, which also covers its batch if the chunk opened it.

    Call it last in the transaction, as `append_leaf` says. record is that of the chunk.
    """
    leaf = chunk_leaf(batch, chunk, decision, record)
    append_leaf(connection, chunk.request.tenant.id, leaf)


def admit_uncharged(
    connection: Connection, chunks: Sequence[NewChunk], decisions: Sequence[ChunkDecision]
) -> int:
    """Return the bytes that chunks of one tenant record without a charge.

    Raises NotRecorded if the tenant may record nothing more in that way.
    """
    total, uncharged = 0, {}
    for (request, *_), decision in zip(chunks, decisions, strict=True):
        terms, paid = request.message.grant, decision.cost.grants
        if isinstance(terms, Parts):
            paid = take_paid_parts(connection, request.tenant.id, terms.of, decision.issued)
        size = uncharged_bytes(request.message, decision, paid)
        if size:
            total += size
            uncharged[request.message.batch] = decision
    tenant_id, now = chunks[0].request.tenant.id, chunks[0].now
    if uncharged and is_beyond_ceiling(connection, tenant_id, now):
        raise NotRecorded(uncharged)
    return total


def chunk_leaf(
    batch: InsertedBatch, chunk: NewChunk, decision: ChunkDecision, record: bytes
) -> NewLeaf:
    """Return the leaf that append_chunk_leaf appends."""
    is_unchanged = decision.rows is chunk.decision.rows
    edge = chunk.items_edge if is_unchanged else items_edge(decision.rows)
    records = [record] if batch.record is None else [record, batch.record]
    return NewLeaf(
        "chunk" if batch.record is None else "batch",
        entry_hash(records, edge),
        batch.batch_number,
        chunk.request.message.chunk,
    )


def insert_reissued_digests(
    connection: Connection, recorded: RecordedChunk, decision: ChunkDecision, now: datetime
) -> None:
    """Insert the new digests of a chunk that was signed again with a different result."""
    reissue_fingerprint = fingerprint(decision.digests.hex())
    values = {
        "batch_number": recorded.batch_number,
        "chunk_number": recorded.chunk_number,
        "fingerprint": reissue_fingerprint,
        "access_key": decision.access_key,
        "reissued_at": now,
        "digests": decision.digests,
    }
    if not insert_once(connection, Reissue, values):
        return
    leaf = NewLeaf(
        "reissue",
        entry_hash([reissue_record(recorded.tenant_id, recorded.batch_id, values)]),
        recorded.batch_number,
        recorded.chunk_number,
        reissue_fingerprint.hex(),
    )
    append_leaf(connection, recorded.tenant_id, leaf)


def insert_cancellation(
    connection: Connection,
    message: CancelMessage,
    tenant_id: str,
    signing_key: str | None,
    now: datetime,
) -> NewLeaf | None:
    """Insert the cancellation of a batch, unless it is cancelled already.

    Returns the leaf to append at the end of the transaction, if it was inserted.
    """
    values = {
        "tenant": tenant_id,
        "batch_id": message.batch,
        "signing_key": signing_key,
        "requested_by": message.requested_by,
        "reason": message.reason,
        "cancelled_at": now,
    }
    if not insert_once(connection, Cancellation, values):
        return None
    record = encode_record("cancellation", values)
    return NewLeaf("cancellation", entry_hash([record]), reference=message.batch)


def _json(refusal: Refusal | None) -> dict[str, Any] | None:
    return None if refusal is None else refusal.model_dump(mode="json", exclude_none=True)

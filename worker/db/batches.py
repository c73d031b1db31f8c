"""Writes the rows of batches, chunks and grants, within the caller's transaction."""

import json
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, insert

from models import Batch, Cancellation, Chunk, Grant, Reissue
from valetkey.wire.messages import CancelMessage
from valetkey.wire.refusals import Refusal
from worker.core.kinds.registry import reserved_cost
from worker.core.policy.decisions import ChunkDecision, ChunkRequest, RecordedChunk
from worker.core.policy.fingerprints import (
    fingerprint,
    header_fingerprint,
    items_fingerprint,
    recorded_terms,
)
from worker.core.quotas.cost import Cost
from worker.db.engine import acquire_advisory_lock
from worker.db.inserts import insert_once, insert_rows

# Statements are built once: building one takes longer than running it.
_INSERT_BATCH = insert(Batch).returning(Batch.batch_number)
_INSERT_CHUNK = insert(Chunk)
_GRANT_COLUMNS = ("batch_number", "item_number", "object_key", "code", "detail", "digest")


class NewChunk(NamedTuple):
    """A decision to write, with its fingerprints, computed before the transaction starts."""

    request: ChunkRequest
    decision: ChunkDecision
    now: datetime
    header_fingerprint: bytes
    items_fingerprint: bytes

    @classmethod
    def prepare(cls, request: ChunkRequest, decision: ChunkDecision, now: datetime) -> Self:
        """Compute the fingerprints of a decision to write."""
        message = request.message
        return cls(request, decision, now, header_fingerprint(message), items_fingerprint(message))

    @property
    def unused_cost(self) -> Cost:
        """The part of the chunk's reserved cost that it does not need: refusals, exact sizes."""
        message = self.request.message
        return reserved_cost(message.grant, len(message.items)).minus(self.decision.cost)


def lock_batch(connection: Connection, tenant_id: str, batch_id: str) -> None:
    """Lock a batch id until the transaction ends: no other one opens or cancels the batch."""
    acquire_advisory_lock(connection, f"{tenant_id}/{batch_id}")


def insert_batch(connection: Connection, chunk: NewChunk, refusal: Refusal | None) -> int:
    """Insert the batch that a chunk opens, and return its number."""
    message = chunk.request.message
    values = {
        "batch_id": message.batch,
        "tenant": chunk.request.tenant.id,
        "bucket": message.grant.bucket,
        "kind": message.grant.kind,
        "requested_by": message.requested_by,
        "reason": message.reason,
        "terms": recorded_terms(message.grant, message.grant.kind),
        "total": message.total,
        "chunk_size": message.chunk_size,
        "callback": message.callback,
        "fingerprint": chunk.header_fingerprint,
        "refusal": _json(refusal),
        "decided_at": chunk.now,
    }
    return connection.execute(_INSERT_BATCH, values).scalar_one()


def insert_chunk(
    connection: Connection, batch_number: int, chunk: NewChunk, decision: ChunkDecision
) -> None:
    """Insert a chunk and the audit rows of its items."""
    issued = decision.issued
    values = {
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
    connection.execute(_INSERT_CHUNK, values)
    rows = [
        (
            batch_number,
            row.item_number,
            row.object_key,
            row.code,
            row.detail and json.dumps(row.detail),
            row.digest,
        )
        for row in decision.rows
    ]
    insert_rows(connection, Grant.__tablename__, _GRANT_COLUMNS, rows)


def insert_reissued_digests(
    connection: Connection, recorded: RecordedChunk, decision: ChunkDecision, now: datetime
) -> None:
    """Insert the new digests of a chunk that was signed again with a different result."""
    values = {
        "batch_number": recorded.batch_number,
        "chunk_number": recorded.chunk_number,
        "fingerprint": fingerprint(decision.digests.hex()),
        "access_key": decision.access_key,
        "reissued_at": now,
        "digests": decision.digests,
    }
    insert_once(connection, Reissue, values)


def insert_cancellation(
    connection: Connection,
    message: CancelMessage,
    tenant_id: str,
    signing_key: str | None,
    now: datetime,
) -> None:
    """Insert the cancellation of a batch, unless it is cancelled already."""
    values = {
        "tenant": tenant_id,
        "batch_id": message.batch,
        "signing_key": signing_key,
        "requested_by": message.requested_by,
        "reason": message.reason,
        "cancelled_at": now,
    }
    insert_once(connection, Cancellation, values)


def _json(refusal: Refusal | None) -> dict[str, Any] | None:
    return None if refusal is None else refusal.model_dump(mode="json", exclude_none=True)

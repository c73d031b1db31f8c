"""The rows of a decision: its batch's own, its chunk's, and one for each item."""

import json
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, insert

from models import Batch, Chunk, Delivery, Grant
from valetkey.wire.refusals import Refusal
from worker.core.policy.decisions import ChunkDecision, ChunkRequest
from worker.core.policy.history import header_fingerprint, items_fingerprint
from worker.core.policy.request_rules import allowed_callbacks
from worker.core.quotas.cost import Cost, reserved_cost
from worker.db import manifests, reservations
from worker.db.bulk_insert import insert_rows
from worker.db.multiparts import insert_uploads

# Built once: to build a statement takes longer than to run it.
_BATCH = insert(Batch).returning(Batch.number)
_CHUNK = insert(Chunk)
_DELIVERY = insert(Delivery)
_GRANT = ("batch", "number", "key", "code", "detail", "digest")


class ChunkWrite(NamedTuple):
    """A decision to be written, with what is worked out before it keeps others waiting."""

    asked: ChunkRequest
    decided: ChunkDecision
    at: datetime
    header: bytes
    content: bytes

    @classmethod
    def of(cls, asked: ChunkRequest, decided: ChunkDecision, now: datetime) -> Self:
        """Get a decision ready."""
        return cls(
            asked, decided, now, header_fingerprint(asked.message), items_fingerprint(asked.message)
        )

    @property
    def saved(self) -> Cost:
        """What the chunk costs less than is reserved for it: refused items, and exact sizes."""
        message = self.asked.message
        return reserved_cost(message.grant, len(message.items)).less(self.decided.price)


def write_batch(connection: Connection, entry: ChunkWrite, refusal: Refusal | None) -> int:
    """Write the batch that a first chunk opens, and return its number."""
    message = entry.asked.message
    values = {
        "id": message.batch,
        "tenant": message.tenant,
        "bucket": message.grant.bucket,
        "kind": message.grant.kind,
        "requested_by": message.requested_by,
        "reason": message.reason,
        "terms": message.grant.model_dump(mode="json", exclude_none=True),
        "total": message.total,
        "chunk_size": message.chunk_size,
        "callback": message.callback,
        "fingerprint": entry.header,
        "refusal": _json(refusal),
        "decided_at": entry.at,
    }
    number = connection.execute(_BATCH, values).scalar_one()
    if message.manifest is not None and refusal is None:
        manifests.insert_manifest(connection, number, message, entry.at)
    return number


def write_chunk(
    connection: Connection,
    batch: int,
    entry: ChunkWrite,
    decided: ChunkDecision,
    charged_at: datetime,
) -> None:
    """Write what was decided on a chunk in the end, and what comes of it."""
    message = entry.asked.message
    _claim(connection, batch, entry, decided)
    insert_rows(connection, Grant.__tablename__, _GRANT, _items(batch, decided))
    if decided.begun:
        insert_uploads(connection, batch, message, decided)
    reservations.reserve_chunk(connection, batch, entry.asked, decided, charged_at)
    if message.callback in allowed_callbacks(entry.asked.tenant, message.grant.bucket):
        _queue(connection, batch, entry)


def _claim(connection: Connection, batch: int, entry: ChunkWrite, decided: ChunkDecision) -> None:
    issued = decided.issued
    values = {
        "batch": batch,
        "number": entry.asked.message.chunk,
        "fingerprint": entry.content,
        "issued": issued,
        "refused": len(decided.rows) - issued,
        **decided.life._asdict(),
        "access_key": decided.access_key,
        "refusal": _json(decided.refusal),
        "key": entry.asked.key,
    }
    connection.execute(_CHUNK, values)


def _items(batch: int, decided: ChunkDecision) -> list[tuple[Any, ...]]:
    return [
        (batch, row.number, row.key, row.code, row.detail and json.dumps(row.detail), row.digest)
        for row in decided.rows
    ]


def _queue(connection: Connection, batch: int, entry: ChunkWrite) -> None:
    message, now = entry.asked.message, entry.at
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
    connection.execute(_DELIVERY, values)


def _json(refusal: Refusal | None) -> dict[str, Any] | None:
    return None if refusal is None else refusal.model_dump(mode="json", exclude_none=True)

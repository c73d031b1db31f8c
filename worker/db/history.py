"""What was decided and charged before a message came: read, and nothing of it changed."""

from datetime import datetime

from sqlalchemy import Connection, Engine, and_, bindparam, select

from models import Batch, Cancellation, Chunk, Reservation
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.core.policy.history import (
    BATCH_CLOSED,
    BATCH_CONFLICT,
    BatchHistory,
    header_fingerprint,
    items_fingerprint,
)
from worker.core.quotas.cost import UsageByWindow
from worker.db import usage
from worker.db.engine import read_transaction
from worker.db.reservations import REMAINING

_FIND = (
    select(
        Batch.fingerprint,
        Batch.refusal,
        Batch.decided_at,
        Chunk.fingerprint.label("content"),
        Chunk.issued_at,
        Chunk.refusal.label("of_chunk"),
        Reservation.items.label("rest"),
    )
    .outerjoin(Chunk, and_(Chunk.batch == Batch.number, Chunk.number == bindparam("chunk")))
    .outerjoin(Reservation, and_(Reservation.batch == Batch.number, Reservation.chunk == REMAINING))
    .where(Batch.tenant == bindparam("tenant"), Batch.id == bindparam("id"))
)
_CANCELLED = select(Cancellation.batch).where(
    Cancellation.tenant == bindparam("tenant"), Cancellation.batch == bindparam("id")
)


class BatchHistoryReader:
    """The past; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def earlier(self, message: ChunkMessage) -> BatchHistory:
        """Find what was decided under the message's batch id."""
        with read_transaction(self._engine) as connection:
            return _earlier(connection, message)

    def earlier_and_used(
        self, message: ChunkMessage, now: datetime
    ) -> tuple[BatchHistory, UsageByWindow]:
        """Find that, and what stands charged to the tenant at this moment."""
        with read_transaction(self._engine) as connection:
            return _earlier(connection, message), usage.read_usage(connection, message.tenant, now)


def _earlier(connection: Connection, message: ChunkMessage) -> BatchHistory:
    one = {"tenant": message.tenant, "id": message.batch}
    row = connection.execute(_FIND, one | {"chunk": message.chunk}).one_or_none()
    if row is None:
        is_cancelled = connection.execute(_CANCELLED, one).first() is not None
        return BatchHistory(refusal=BATCH_CLOSED if is_cancelled else None)
    if row.fingerprint != header_fingerprint(message) or row.content not in {
        None,
        items_fingerprint(message),
    }:
        return BatchHistory(row.decided_at, refusal=BATCH_CONFLICT)
    if row.content is not None:
        return BatchHistory(row.decided_at, row.issued_at, _refusal(row.of_chunk))
    refusal = _refusal(row.refusal) or (BATCH_CLOSED if row.rest is None else None)
    return BatchHistory(row.decided_at, refusal=refusal)


def _refusal(stored: object) -> Refusal | None:
    return None if stored is None else Refusal.model_validate(stored)

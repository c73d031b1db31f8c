"""What is known of a tenant's batch by its id alone."""

from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, func, select

from models import Batch, Cancellation, Chunk, Reservation
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState
from worker.core.policy.history import BATCH_CLOSED
from worker.db import manifests
from worker.db.engine import autocommit_read, read_transaction
from worker.db.reservations import REMAINING

BATCH_UNKNOWN = Refusal(
    code=Code.BATCH_UNKNOWN,
    field="batch",
    message="nothing of such a batch of the tenant has reached the service",
)
_NOT_YET = Refusal(
    code=Code.BATCH_UNKNOWN,
    field="chunk",
    message="this chunk of the batch has not reached the service",
)
_FIND = (
    select(
        Batch.number,
        Batch.kind,
        Batch.bucket,
        Batch.total,
        Batch.chunk_size,
        Batch.refusal,
        Chunk.number.label("chunk"),
        Reservation.items.label("rest"),
        Cancellation.at.label("cancelled_at"),
    )
    .outerjoin(Chunk, and_(Chunk.batch == Batch.number, Chunk.number == bindparam("chunk")))
    .outerjoin(Reservation, and_(Reservation.batch == Batch.number, Reservation.chunk == REMAINING))
    .outerjoin(
        Cancellation, and_(Cancellation.tenant == Batch.tenant, Cancellation.batch == Batch.id)
    )
    .where(Batch.tenant == bindparam("of"), Batch.id == bindparam("id"))
)
_DECIDED = select(
    func.count(),
    func.coalesce(func.sum(Chunk.issued), 0),
    func.coalesce(func.sum(Chunk.refused), 0),
).where(Chunk.batch == bindparam("batch"))


class BatchReader:
    """Batches that were asked for before; each method only reads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def state(self, tenant: str, batch: str) -> BatchState | None:
        """How far a batch has come; None where nothing of it has arrived."""
        with read_transaction(self._engine) as connection:
            found = _find(connection, tenant, batch, chunk=-1)
            if found is None:
                return None
            # Read later, so that whoever decides meanwhile makes no open batch look closed.
            row = connection.execute(_DECIDED, {"batch": found.number}).one()
            manifest = manifests.read_manifest_state(connection, found.number)
        decided, issued, refused = (int(number) for number in row)
        is_whole = decided == _chunks(found)
        return BatchState(
            batch=batch,
            kind=found.kind,
            bucket=found.bucket,
            total=found.total,
            chunk_size=found.chunk_size,
            decided=decided,
            issued=issued,
            refused=refused,
            cancelled=found.cancelled_at is not None,
            refusal=None if is_whole and found.refusal is None else _of_others(found),
            manifest=manifest,
        )

    def place(self, tenant: str, batch: str, chunk: int) -> int | Refusal:
        """The number of a batch whose chunk is decided; or what that chunk gets, or why nothing."""
        with autocommit_read(self._engine) as connection:
            found = _find(connection, tenant, batch, chunk)
        if found is None:
            return BATCH_UNKNOWN
        if found.chunk is not None:
            return int(found.number)
        if chunk >= _chunks(found):
            text = "the batch has no such chunk"
            limit = _chunks(found) - 1
            return Refusal(code=Code.CHUNK_INVALID, field="chunk", message=text, limit=limit)
        return _of_others(found) or _NOT_YET


def _find(connection: Connection, tenant: str, batch: str, chunk: int) -> Any:
    return connection.execute(_FIND, {"of": tenant, "id": batch, "chunk": chunk}).one_or_none()


def _chunks(found: Any) -> int:
    return -(-int(found.total) // int(found.chunk_size))


def _of_others(found: Any) -> Refusal | None:
    """What chunks that are not decided get, where that is known."""
    if found.refusal is not None:
        return Refusal.model_validate(found.refusal)
    return BATCH_CLOSED if found.rest is None else None

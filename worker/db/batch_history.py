"""Reads what was committed under a batch id."""

from datetime import datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, and_, bindparam, func, literal, select

from models import Batch, Cancellation, Chunk, Grant, Reservation
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.policy.decisions import GrantRow, RecordedChunk
from worker.core.policy.history import BatchHistory, DecidedChunk, RecordedBatch
from worker.core.signing.validity import Validity
from worker.db.multiparts import uploads_of_chunk
from worker.db.reservations import REMAINING
from worker.db.statements.driver import DriverStatement
from worker.errors import Transient

# Statements are built once: building one takes longer than running it. This one always returns
# exactly one row, whatever exists.
_ONE_ROW = select(literal(1).label("one")).subquery()
_IS_BATCH = and_(Batch.tenant == bindparam("of_tenant"), Batch.batch_id == bindparam("id"))
_IS_CHUNK = and_(Chunk.batch_number == Batch.batch_number, Chunk.chunk_number == bindparam("chunk"))
_IS_REMAINING = and_(
    Reservation.batch_number == Batch.batch_number,
    Reservation.chunk_number == REMAINING,
    Reservation.expires_at > bindparam("now"),
)
_IS_CANCELLATION = and_(
    Cancellation.tenant == bindparam("of_tenant"), Cancellation.batch_id == bindparam("id")
)
_FIND = DriverStatement(
    select(
        Batch.batch_number,
        Batch.kind,
        Batch.bucket,
        Batch.total,
        Batch.chunk_size,
        Batch.fingerprint,
        Batch.refusal,
        Batch.decided_at,
        Reservation.items.label("remaining"),
        Chunk.fingerprint.label("chunk_fingerprint"),
        Chunk.issued_at.label("chunk_issued_at"),
        Chunk.refusal.label("chunk_refusal"),
        Cancellation.cancelled_at,
    ).select_from(
        _ONE_ROW.outerjoin(Batch, _IS_BATCH)
        .outerjoin(Chunk, _IS_CHUNK)
        .outerjoin(Reservation, _IS_REMAINING)
        .outerjoin(Cancellation, _IS_CANCELLATION)
    )
)
_COUNT = select(
    func.count(),
    func.coalesce(func.sum(Chunk.issued), 0),
    func.coalesce(func.sum(Chunk.refused), 0),
).where(Chunk.batch_number == bindparam("batch"))
_TERMS: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)


class DecidedCounts(NamedTuple):
    """The number of a batch's decided chunks, and the numbers of their issued and refused items."""

    chunks: int
    issued: int
    refused: int


def read_history(
    connection: Connection, tenant_id: str, batch_id: str, chunk_number: int, now: datetime
) -> BatchHistory:
    """Read the committed state of a tenant's batch id and of one of its chunks.

    A batch is closed from the moment at which its reservation expires, even if no cleanup has
    released it yet.
    """
    params = {"of_tenant": tenant_id, "id": batch_id, "chunk": chunk_number, "now": now}
    (row,) = _FIND.run(connection, params)
    return BatchHistory(
        batch=None if row.batch_number is None else _batch(row),
        chunk=None if row.chunk_fingerprint is None else _chunk(row),
        is_cancelled=row.cancelled_at is not None,
    )


def _batch(row: Any) -> RecordedBatch:
    return RecordedBatch(
        batch_number=row.batch_number,
        kind=row.kind,
        bucket=row.bucket,
        total=row.total,
        chunk_size=row.chunk_size,
        fingerprint=row.fingerprint,
        refusal=_refusal(row.refusal),
        decided_at=row.decided_at,
        remaining=row.remaining,
    )


def _chunk(row: Any) -> DecidedChunk:
    return DecidedChunk(row.chunk_fingerprint, row.chunk_issued_at, _refusal(row.chunk_refusal))


def _refusal(value: object) -> Refusal | None:
    return None if value is None else Refusal.model_validate(value)


def count_decided(connection: Connection, batch_number: int) -> DecidedCounts:
    """Count the decided chunks of a batch and their items."""
    row = connection.execute(_COUNT, {"batch": batch_number}).one()
    return DecidedCounts(*(int(number) for number in row))


def next_decided_chunk(connection: Connection, batch_number: int, after: int) -> int | None:
    """Return the number of the next decided chunk after the given one, or None if there is none."""
    query = select(func.min(Chunk.chunk_number)).where(
        Chunk.batch_number == batch_number, Chunk.chunk_number > after
    )
    return connection.scalar(query)


def read_recorded_chunk(
    connection: Connection, batch_number: int, chunk_number: int
) -> RecordedChunk:
    """Read a committed chunk with its audit rows. Raises Transient as _read_terms does."""
    header = connection.execute(
        select(
            Batch.batch_id,
            Batch.tenant,
            Batch.terms,
            Batch.total,
            Batch.chunk_size,
            Batch.callback,
            Chunk,
        )
        .join(Chunk, Chunk.batch_number == Batch.batch_number)
        .where(Batch.batch_number == batch_number, Chunk.chunk_number == chunk_number)
    ).one()
    first_item = chunk_number * header.chunk_size
    items = range(first_item, first_item + header.chunk_size)
    rows = connection.execute(
        select(Grant.item_number, Grant.object_key, Grant.code, Grant.detail, Grant.digest)
        .where(Grant.batch_number == batch_number, Grant.item_number >= items.start)
        .where(Grant.item_number < items.stop)
        .order_by(Grant.item_number)
    )
    return RecordedChunk(
        batch_number=batch_number,
        batch_id=header.batch_id,
        chunk_number=chunk_number,
        tenant_id=header.tenant,
        terms=_read_terms(header.terms),
        total=header.total,
        callback=header.callback,
        rows=[GrantRow(*row) for row in rows],
        validity=Validity(header.issued_at, header.expires_in, header.limited_by),
        access_key=header.access_key,
        refusal=_refusal(header.refusal),
        uploads=uploads_of_chunk(connection, batch_number, items),
    )


def _read_terms(values: Any) -> AnyTerms:
    """Read the terms of a batch. Raises Transient for terms that only a later release has.

    While the service is updated, another worker can sign them again.
    """
    try:
        return _TERMS.validate_python(values)
    except ValidationError:
        pass
    raise Transient("the batch has terms of a later release of the service: update all workers")

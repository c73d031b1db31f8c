"""Writes the rows of batches, chunks and grants, and reads what was committed under a batch id."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, and_, bindparam, func, insert, literal, select, union_all

from models import Annotation, Batch, Cancellation, Chunk, Grant, Reissue, Reservation
from valetkey.signing.signing_context import Validity
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms, Multipart, Parts
from worker import hooks
from worker.base.database_engine import DriverStatement, execute_in_driver, insert_rows
from worker.base.inserts import insert_once
from worker.base.month_partitions import partition_key
from worker.errors import Transient
from worker.hooks import InsertedChunk
from worker.ledger.chunk_items import read_annotations, read_items
from worker.ledger.merkle import (
    RightEdge,
    encode_record,
    entry_hash,
    items_edge,
    key_thumbprint,
)
from worker.ledger.multipart_rows import (
    insert_uploads,
    take_paid_parts,
    uploads_of_chunk,
)
from worker.ledger.quota_usage import charge_uncharged, is_beyond_ceiling
from worker.ledger.reservations import (
    REMAINING,
    insert_chunk_reservations,
    insert_remaining_reservation,
)
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.annotations import BATCH_TEXTS, Annotations, SaltedTexts, new_salt, salted
from worker.rules.decisions import (
    ChunkDecision,
    ChunkRequest,
    GrantRow,
    NotRecorded,
    RecordedChunk,
    refuse_chunk,
    uncharged_bytes,
)
from worker.rules.fingerprints import (
    BatchHistory,
    DecidedChunk,
    RecordedBatch,
    fingerprint,
    header_fingerprint,
    items_fingerprint,
    recorded_terms,
    salted_fingerprint,
)
from worker.rules.grant_kinds import reserved_cost
from worker.rules.quota_rules import Cost, UsageByWindow

# Statements are built once: building one takes longer than running it.
_INSERT_BATCHES = DriverStatement(
    insert(Batch).returning(Batch.batch_number, sort_by_parameter_order=True)
)
_INSERT_CHUNKS = DriverStatement(insert(Chunk))
_GRANT_COLUMNS = Grant.__table__.columns.keys()


class NewChunk(NamedTuple):
    """A decision to write, with its fingerprints and the tree of its items' records.

    They are computed before the transaction starts, because other transactions wait for it.
    request_salt is for the fingerprints if the chunk opens its batch. prepared is for the hook
    `decided`, and charged is the usage before and after the charge of the batch that it opens.
    """

    request: ChunkRequest
    decision: ChunkDecision
    now: datetime
    header_fingerprint: bytes
    items_fingerprint: bytes
    request_salt: bytes
    annotations: Annotations
    items_edge: RightEdge
    prepared: Mapping[str, Any]
    charged: tuple[UsageByWindow, UsageByWindow] | None = None

    @classmethod
    def prepare(
        cls, request: ChunkRequest, decision: ChunkDecision | Refusal, now: datetime
    ) -> Self:
        """Compute what depends only on the decision; a refusal is one of every item."""
        message = request.message
        if isinstance(decision, Refusal):
            decision = refuse_chunk(message, decision, now)
        annotations = {
            number: annotation
            for number, item in enumerate(message.items, message.first_item)
            if (annotation := SaltedTexts.of(item)) is not None
        }
        return cls(
            request,
            decision,
            now,
            header_fingerprint(message),
            items_fingerprint(message),
            new_salt(),
            annotations,
            items_edge(decision.rows, annotations),
            hooks.prepare(request, decision),
        )

    def refuse(self, refusal: Refusal) -> Self:
        """Return the chunk with every item refused for the same reason."""
        decision = refuse_chunk(self.request.message, refusal, self.now)
        edge = items_edge(decision.rows, self.annotations)
        return self._replace(decision=decision, items_edge=edge)

    def inserted(self, batch_number: int, *, opens_batch: bool) -> InsertedChunk:
        """Return what hooks are told of the chunk, once its rows are inserted."""
        return InsertedChunk(
            batch_number, self.request, self.decision, self.prepared, opens_batch, self.charged
        )

    @property
    def unused_cost(self) -> Cost:
        """The part of the chunk's reserved cost that it does not need: refusals, exact sizes."""
        message = self.request.message
        return reserved_cost(message.grant, len(message.items)).minus(self.decision.cost)

    @property
    def opening_cost(self) -> Cost:
        """The cost of the batch that the chunk opens: its own, and what its other items reserve."""
        message, cost = self.request.message, self.decision.cost
        later = message.total - len(message.items)
        if not later or self.decision.refusal is not None:
            return cost
        return cost.plus(reserved_cost(message.grant, later))


_LOCK_BATCHES = (
    "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name"
)


def lock_batches(connection: Connection, tenant_id: str, *batch_ids: str) -> None:
    """Lock batch ids until the transaction ends: no other one opens or cancels these batches.

    Always in the same order, to avoid deadlocks. On SQLite, write transactions exclude each other.
    """
    if connection.dialect.name != "sqlite":
        names = sorted(f"{tenant_id}/{batch_id}" for batch_id in batch_ids)
        execute_in_driver(connection, _LOCK_BATCHES, (names,))


class InsertedBatch(NamedTuple):
    """The number of a batch, and its record if this transaction inserted it."""

    batch_number: int
    record: bytes | None = None


def _batch_values(chunk: NewChunk) -> dict[str, Any]:
    """Return the row of the batch that a chunk opens."""
    message = chunk.request.message
    return {
        "batch_id": message.batch,
        "tenant": chunk.request.tenant.id,
        "bucket": message.grant.bucket,
        "kind": message.grant.kind,
        **salted({name: getattr(message, name) for name in ("requested_by", *BATCH_TEXTS)}),
        "terms": recorded_terms(message.grant),
        "total": message.total,
        "chunk_size": message.chunk_size,
        "callback": message.callback,
        "notify": message.notify,
        "reissue_of": chunk.request.reissue_of,
        "fingerprint": salted_fingerprint(chunk.request_salt, chunk.header_fingerprint),
        "request_salt": chunk.request_salt,
        "refusal": _json(chunk.decision.refusal),
        "decided_at": chunk.now,
    }


def insert_chunks(
    connection: Connection,
    batches: Sequence[InsertedBatch],
    chunks: Sequence[NewChunk],
    charged_at: datetime,
) -> list[NewLeaf]:
    """Insert chunks of one tenant and month, with their audit rows and reservations.

    Returns the leaves to append. Raises Transient if uploads of a chunk are left to the cleanup.
    """
    numbers = [batch.batch_number for batch in batches]
    values = list(map(_chunk_values, numbers, chunks))
    _INSERT_CHUNKS.run_each(connection, values)
    _insert_grants(connection, numbers, chunks)
    _insert_annotations(connection, numbers, chunks)
    for number, (request, decision, *_) in zip(numbers, chunks, strict=True):
        if decision.attempt is not None:
            insert_uploads(connection, number, request, decision, decision.attempt)
    decided = [(chunk.request, chunk.decision) for chunk in chunks]
    insert_chunk_reservations(connection, numbers, decided, charged_at)
    return list(map(_chunk_leaf, batches, chunks, values))


def _insert_grants(
    connection: Connection, batch_numbers: Sequence[int], chunks: Sequence[NewChunk]
) -> None:
    month = partition_key(connection, chunks[0].decision.validity.issued_at)
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
        for batch_number, chunk in zip(batch_numbers, chunks, strict=True)
        for row in chunk.decision.rows
    ]
    insert_rows(connection, Grant.__tablename__, columns, rows)


def _insert_annotations(
    connection: Connection, batch_numbers: Sequence[int], chunks: Sequence[NewChunk]
) -> None:
    rows = [
        (batch_number, number, *annotation)
        for batch_number, chunk in zip(batch_numbers, chunks, strict=True)
        for number, annotation in chunk.annotations.items()
    ]
    if rows:
        columns = Annotation.__table__.columns.keys()
        insert_rows(connection, Annotation.__tablename__, columns, rows)


def _chunk_values(batch_number: int, chunk: NewChunk) -> dict[str, Any]:
    decision, issued = chunk.decision, chunk.decision.issued
    tenant, signing_key = chunk.request.tenant, chunk.request.signing_key
    return {
        "batch_number": batch_number,
        "chunk_number": chunk.request.message.chunk,
        "fingerprint": salted_fingerprint(chunk.request_salt, chunk.items_fingerprint),
        "issued": issued,
        "refused": len(decision.rows) - issued,
        **decision.validity._asdict(),
        "access_key": decision.access_key,
        "refusal": _json(decision.refusal),
        "signing_key": signing_key,
        "key_thumbprint": key_thumbprint(tenant.keys[signing_key].sign) if signing_key else None,
        "config_change": tenant.config_change,
    }


def admit_uncharged(connection: Connection, chunks: Sequence[NewChunk]) -> int:
    """Return the bytes that chunks of one tenant record without a charge.

    Raises NotRecorded if the tenant may record nothing more in that way.
    """
    total, uncharged = 0, {}
    for request, decision, *_ in chunks:
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


def _chunk_leaf(batch: InsertedBatch, chunk: NewChunk, values: Mapping[str, Any]) -> NewLeaf:
    """Return the leaf of a chunk's row, which also covers its batch if the chunk opened it."""
    message, tenant_id = chunk.request.message, chunk.request.tenant.id
    records = [encode_record("chunk", values, tenant=tenant_id, batch_id=message.batch)]
    if batch.record is not None:
        records.append(batch.record)
    hash_ = entry_hash(records, chunk.items_edge)
    kind = "chunk" if batch.record is None else "batch"
    return NewLeaf(kind, hash_, batch.batch_number, message.chunk)


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
    batch = {"tenant": recorded.tenant_id, "batch_id": recorded.batch_id}
    leaf = NewLeaf(
        "reissue",
        entry_hash([encode_record("reissue", values, **batch)]),
        recorded.batch_number,
        recorded.chunk_number,
        reissue_fingerprint.hex(),
    )
    append_leaf(connection, recorded.tenant_id, leaf)


def _json(refusal: Refusal | None) -> dict[str, Any] | None:
    return None if refusal is None else refusal.model_dump(mode="json", exclude_none=True)


_FIND_KNOWN = union_all(
    *(
        select(table.batch_id).where(
            table.tenant == bindparam("of_tenant"),
            table.batch_id.in_(bindparam("ids", expanding=True)),
        )
        for table in (Batch, Cancellation)
    )
)


def known_batches(connection: Connection, tenant_id: str, batch_ids: Sequence[str]) -> set[str]:
    """Return those of these batch ids that were requested or cancelled before."""
    return set(connection.scalars(_FIND_KNOWN, {"of_tenant": tenant_id, "ids": batch_ids}))


def insert_new_batches(connection: Connection, chunks: Sequence[NewChunk]) -> None:
    """Insert the batches that chunks of one tenant open, with all that follows from the decisions.

    Call it last in the transaction, as `append_leaf` says. Raises NotRecorded as `admit_uncharged`
    does.
    """
    tenant_id, now = chunks[0].request.tenant.id, chunks[0].now
    uncharged = admit_uncharged(connection, chunks)
    batches = _insert_batches(connection, chunks)
    for batch, (request, decision, *_) in zip(batches, chunks, strict=True):
        if decision.refusal is None:
            insert_remaining_reservation(connection, batch.batch_number, request, now)
    leaves = insert_chunks(connection, batches, chunks, now)
    inserted = [
        chunk.inserted(batch.batch_number, opens_batch=True)
        for batch, chunk in zip(batches, chunks, strict=True)
    ]
    hooks.decided(connection, inserted, now)
    charge_uncharged(connection, tenant_id, uncharged, now)
    append_leaf(connection, tenant_id, *leaves)


def _insert_batches(connection: Connection, chunks: Sequence[NewChunk]) -> list[InsertedBatch]:
    rows = list(map(_batch_values, chunks))
    numbers = _INSERT_BATCHES.run_each(connection, rows)
    return [
        InsertedBatch(number, encode_record("batch", values))
        for (number,), values in zip(numbers, rows, strict=True)
    ]


# The history always has exactly one row, whatever exists.
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
_FIND_HISTORY = DriverStatement(
    select(
        # The fields of RecordedBatch, in their order.
        *(Batch.batch_number, Batch.kind, Batch.bucket, Batch.total, Batch.chunk_size),
        *(Batch.fingerprint, Batch.refusal, Batch.decided_at, Reservation.items),
        Batch.request_salt,
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
_COUNT_DECIDED = select(
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

    A batch is closed from the time at which its reservation expires, even if no cleanup has
    released it yet.
    """
    params = {"of_tenant": tenant_id, "id": batch_id, "chunk": chunk_number, "now": now}
    (row,) = _FIND_HISTORY.run(connection, params)
    batch = chunk = None
    if row.batch_number is not None:
        fields = RecordedBatch._make(row[: len(RecordedBatch._fields)])
        batch = fields._replace(refusal=_refusal(row.refusal))
    if row.chunk_fingerprint is not None:
        refusal = _refusal(row.chunk_refusal)
        chunk = DecidedChunk(row.chunk_fingerprint, row.chunk_issued_at, refusal)
    return BatchHistory(batch, chunk, is_cancelled=row.cancelled_at is not None)


def _refusal(value: object) -> Refusal | None:
    return None if value is None else Refusal.model_validate(value)


def count_decided(connection: Connection, batch_number: int) -> DecidedCounts:
    """Count the decided chunks of a batch and their items."""
    row = connection.execute(_COUNT_DECIDED, {"batch": batch_number}).one()
    return DecidedCounts(*(int(number) for number in row))


_READ_HEADER = DriverStatement(
    select(
        *(Batch.batch_id, Batch.tenant, Batch.terms, Batch.total, Batch.chunk_size),
        *(Batch.callback, *(getattr(Batch, name) for name in BATCH_TEXTS)),
        *(Chunk.issued_at, Chunk.expires_in, Chunk.limited_by, Chunk.access_key, Chunk.refusal),
    )
    .join(Chunk, Chunk.batch_number == Batch.batch_number)
    .where(Batch.batch_number == bindparam("batch"), Chunk.chunk_number == bindparam("chunk"))
)


def read_recorded_chunk(
    connection: Connection, batch_number: int, chunk_number: int
) -> RecordedChunk:
    """Read a committed chunk with its audit rows. Raises Transient as _read_terms does."""
    params = {"batch": batch_number, "chunk": chunk_number}
    (header,) = _READ_HEADER.run(connection, params)
    first_item = chunk_number * header.chunk_size
    items = range(first_item, first_item + header.chunk_size)
    terms = _read_terms(header.terms)
    is_multipart = isinstance(terms, Multipart)
    return RecordedChunk(
        batch_number=batch_number,
        batch_id=header.batch_id,
        chunk_number=chunk_number,
        tenant_id=header.tenant,
        terms=terms,
        total=header.total,
        callback=header.callback,
        batch_texts={name: getattr(header, name) for name in BATCH_TEXTS},
        rows=[GrantRow(*row) for row in read_items(connection, batch_number, items)],
        annotations=read_annotations(connection, batch_number, items),
        validity=Validity(header.issued_at, header.expires_in, header.limited_by),
        access_key=header.access_key,
        refusal=_refusal(header.refusal),
        uploads=uploads_of_chunk(connection, batch_number, items) if is_multipart else {},
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

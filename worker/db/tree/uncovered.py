"""Finds audit rows that no leaf covers, and computes the leaves that cover them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, literal, select

from models import Batch, Cancellation, Chunk, ConfigChange, Leaf, Reissue
from worker.core.tree.merkle import RightEdge
from worker.core.tree.records import (
    CHUNK_KINDS,
    CONFIG_LOG,
    NO_LEAVES,
    encode_record,
    entry_hash,
    reissue_record,
)
from worker.db.retention.item_edges import read_item_edge
from worker.db.tree.append import NewLeaf
from worker.db.tree.chunk_records import read_chunk_records


def uncovered_chunks(
    connection: Connection, before: datetime, after: tuple[int, int], limit: int
) -> list[tuple[int, int]]:
    """Return the batch and chunk numbers of chunks without a leaf, in order, after the given ones.

    Only chunks that were issued before a moment.
    """
    is_covered = (
        select(literal(1))
        .where(Leaf.batch_number == Chunk.batch_number, Leaf.chunk_number == Chunk.chunk_number)
        .where(Leaf.kind.in_(CHUNK_KINDS))
        .exists()
    )
    number, chunk = after
    is_later = (Chunk.batch_number > number) | and_(
        Chunk.batch_number == number, Chunk.chunk_number > chunk
    )
    query = (
        select(Chunk.batch_number, Chunk.chunk_number)
        .where(is_later, Chunk.issued_at < before, ~is_covered)
        .order_by(Chunk.batch_number, Chunk.chunk_number)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def chunk_leaf(connection: Connection, batch_number: int, chunk_number: int) -> tuple[str, NewLeaf]:
    """Return the tenant and the leaf of a chunk; it covers the batch if no other leaf does."""
    records = read_chunk_records(connection, batch_number, chunk_number)
    if records is None:
        raise LookupError("the chunk has no row")
    is_batch_leaf = Leaf.batch_number == batch_number, Leaf.kind == "batch"
    covers_batch = connection.scalar(select(1).where(*is_batch_leaf).limit(1)) is None
    kind = "batch" if covers_batch else "chunk"
    # Without items, the leaf covers the tree of them that `audit prune` stored.
    edge = None if records.items else read_item_edge(connection, batch_number, chunk_number)
    items = RightEdge.from_bytes(records.total, edge) if edge else NO_LEAVES
    hash_ = entry_hash(records.of_leaf(kind), items)
    leaf = NewLeaf(kind, hash_, batch_number, chunk_number)
    return records.tenant_id, leaf


def uncovered_reissues(
    connection: Connection, before: datetime, limit: int
) -> list[tuple[str, NewLeaf]]:
    """Return tenants and leaves of reissues that no leaf covers."""
    is_covered = (
        select(literal(1))
        .where(Leaf.batch_number == Reissue.batch_number)
        .where(Leaf.chunk_number == Reissue.chunk_number, Leaf.kind == "reissue")
        .where(Leaf.reference == _hex(connection, Reissue.fingerprint))
        .exists()
    )
    query = (
        select(Batch.tenant, Batch.batch_id, *Reissue.__table__.columns)
        .join(Batch, Batch.batch_number == Reissue.batch_number)
        .where(Reissue.reissued_at < before, ~is_covered)
        .order_by(Reissue.batch_number, Reissue.chunk_number, Reissue.fingerprint)
        .limit(limit)
    )
    found = []
    for row in connection.execute(query):
        values = _values(row)
        tenant, batch_id = values.pop("tenant"), values.pop("batch_id")
        record = reissue_record(tenant, batch_id, values)
        place = row.batch_number, row.chunk_number, row.fingerprint.hex()
        found.append((tenant, NewLeaf("reissue", entry_hash([record]), *place)))
    return found


def _hex(connection: Connection, column: Any) -> Any:
    if connection.dialect.name == "sqlite":
        return func.lower(func.hex(column))
    return func.encode(column, "hex")


def uncovered_cancellations(
    connection: Connection, before: datetime, limit: int
) -> list[tuple[str, NewLeaf]]:
    """Return tenants and leaves of cancellations that no leaf covers."""
    is_covered = (
        select(literal(1))
        .where(Leaf.tenant == Cancellation.tenant, Leaf.kind == "cancellation")
        .where(Leaf.reference == Cancellation.batch_id)
        .exists()
    )
    query = (
        select(*Cancellation.__table__.columns)
        .where(Cancellation.cancelled_at < before, ~is_covered)
        .order_by(Cancellation.tenant, Cancellation.batch_id)
        .limit(limit)
    )
    return [
        (
            row.tenant,
            NewLeaf(
                "cancellation",
                entry_hash([encode_record("cancellation", _values(row))]),
                reference=row.batch_id,
            ),
        )
        for row in connection.execute(query)
    ]


def uncovered_changes(
    connection: Connection, before: datetime, limit: int
) -> list[tuple[str, NewLeaf]]:
    """Return leaves, each for one change of the config that no leaf covers."""
    covered = [
        range(int(first), int(last) + 1)
        for first, _, last in (
            reference.partition("-")
            for reference in connection.scalars(
                select(Leaf.reference).where(Leaf.tenant == CONFIG_LOG, Leaf.kind == "config")
            )
            if reference is not None
        )
    ]
    numbers = {number for numbers in covered for number in numbers}
    query = (
        select(*ConfigChange.__table__.columns)
        .where(ConfigChange.changed_at < before)
        .order_by(ConfigChange.change_number)
    )
    found = []
    for row in connection.execute(query):
        if row.change_number not in numbers:
            record = encode_record("config", _values(row))
            reference = f"{row.change_number}-{row.change_number}"
            leaf = NewLeaf("config", entry_hash([record]), reference=reference)
            found.append((CONFIG_LOG, leaf))
        if len(found) == limit:
            break
    return found


def _values(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it

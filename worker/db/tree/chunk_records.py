"""The records of the leaf of a chunk, encoded again from its rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from models import Batch, Chunk, Grant, Leaf
from worker.core.policy.decisions import GrantRow
from worker.core.tree.records import CHUNK_KINDS, chunk_record, encode_record, item_record

_BATCH_COLUMNS = [column for column in Batch.__table__.columns if column.name != "batch_number"]


class ChunkLeaf(NamedTuple):
    """The leaf of a chunk; its kind is batch if it also covers the batch."""

    leaf_number: int
    kind: str
    chunk_number: int | None


class FoundBatch(NamedTuple):
    """A batch; is_ambiguous is true if another tenant has one with the same id."""

    number: int
    tenant_id: str
    total: int
    chunk_size: int
    is_ambiguous: bool


class ChunkRecords(NamedTuple):
    """The records of a chunk's items, by item number, of the chunk, and of its batch."""

    items: dict[int, bytes]
    chunk: bytes
    batch: bytes

    def of_leaf(self, kind: str) -> list[bytes]:
        """Return the records that the leaf of the chunk covers, in order."""
        return [*self.items.values(), self.chunk, *([self.batch] if kind == "batch" else [])]


def find_batch(
    connection: Connection, batch_id: str, tenant_ids: Sequence[str] | None
) -> FoundBatch | None:
    """Return the batch with an id, or None; tenant_ids None means any tenant."""
    query = select(
        Batch.batch_number,
        Batch.tenant,
        Batch.total,
        Batch.chunk_size,
        func.count().over() > 1,
    ).where(Batch.batch_id == batch_id)
    if tenant_ids is not None:
        query = query.where(Batch.tenant.in_(tenant_ids))
    row = connection.execute(query).first()
    return None if row is None else FoundBatch(*row)


def read_chunk_leaves(connection: Connection, batch_number: int) -> list[ChunkLeaf]:
    """Return the leaves of a batch's chunks, in the order of the chunks."""
    query = (
        select(Leaf.leaf_number, Leaf.kind, Leaf.chunk_number)
        .where(Leaf.batch_number == batch_number, Leaf.kind.in_(CHUNK_KINDS))
        .order_by(Leaf.chunk_number)
    )
    return [ChunkLeaf(*row) for row in connection.execute(query)]


def read_chunk_records(
    connection: Connection, batch_number: int, chunk_number: int | None
) -> ChunkRecords | None:
    """Encode the records of a chunk from its rows. Returns None if it has none any more."""
    batch = _values(connection, _BATCH_COLUMNS, Batch.batch_number == batch_number)
    is_chunk = Chunk.batch_number == batch_number, Chunk.chunk_number == chunk_number
    chunk = _values(connection, list(Chunk.__table__.columns), *is_chunk)
    if batch is None or chunk is None:
        return None
    first = chunk["chunk_number"] * batch["chunk_size"]
    rows = connection.execute(
        select(Grant.item_number, Grant.object_key, Grant.code, Grant.detail, Grant.digest)
        .where(Grant.batch_number == batch_number, Grant.item_number >= first)
        .where(Grant.item_number < first + batch["chunk_size"])
        .order_by(Grant.item_number)
    )
    items = {row.item_number: item_record(GrantRow(*row)) for row in rows}
    record = chunk_record(batch["tenant"], batch["batch_id"], chunk)
    return ChunkRecords(items, record, encode_record("batch", batch))


def _values(connection: Connection, columns: list[Any], *conditions: Any) -> dict[str, Any] | None:
    row = connection.execute(select(*columns).where(*conditions)).mappings().first()
    return None if row is None else dict(row)

"""Reads the rows of the audit log that were committed since an earlier look at it."""

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select, tuple_

from models import Batch, Chunk, Grant, Leaf, TreeHead
from worker.db.audit.filters import GrantFilter, batch_conditions, item_conditions, join_items
from worker.db.audit.grants import COLUMNS, AuditRecord, to_record

Heads = Mapping[str, int]
"""The number of leaves in each tenant's tree."""

_CHUNKS_PER_READ = 100


def read_heads(connection: Connection) -> Heads:
    """Return the sizes of all tenants' trees."""
    return {row.tenant: row.size for row in connection.execute(select(TreeHead))}


def read_new_grants(
    connection: Connection, grant_filter: GrantFilter, before: Heads, now: Heads
) -> Iterator[AuditRecord]:
    """Yield the rows of a filter that were committed between two states, oldest first.

    Leaves are numbered in the order of the commits, without gaps. So no row is missed, even if a
    transaction with a smaller batch number is committed later, or a chunk is added to an old batch.
    """
    chunks = sorted(_new_chunks(connection, before, now))
    for start in range(0, len(chunks), _CHUNKS_PER_READ):
        query = (
            join_items(connection, *COLUMNS)
            .where(
                tuple_(Chunk.batch_number, Chunk.chunk_number).in_(
                    chunks[start : start + _CHUNKS_PER_READ]
                )
            )
            .where(Batch.batch_number.in_({batch for batch, _ in chunks}))
            .where(*batch_conditions(connection, grant_filter))
            .where(*item_conditions(connection, grant_filter))
            .order_by(Batch.batch_number, Chunk.chunk_number, Grant.item_number)
        )
        yield from map(to_record, connection.execute(query, execution_options={"yield_per": 500}))


def _new_chunks(connection: Connection, before: Heads, now: Heads) -> Iterator[tuple[int, int]]:
    for tenant, size in now.items():
        if size > before.get(tenant, 0):
            query = select(Leaf.batch_number, Leaf.chunk_number).where(
                Leaf.tenant == tenant,
                Leaf.leaf_number >= before.get(tenant, 0),
                Leaf.leaf_number < size,
                Leaf.kind.in_(("batch", "chunk")),
            )
            for batch_number, chunk_number in connection.execute(query):
                if batch_number is not None and chunk_number is not None:  # all leaves of chunks
                    yield batch_number, chunk_number

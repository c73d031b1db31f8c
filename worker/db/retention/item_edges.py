"""Stores the trees of the items of chunks, before `audit prune` removes the items."""

from sqlalchemy import Connection, select, tuple_

from models import Grant, ItemEdge
from worker.core.policy.decisions import GrantRow
from worker.core.tree.records import NO_LEAVES, items_edge
from worker.db.inserts import insert_rows
from worker.db.retention.removal import ChunkItems

_COLUMNS = ("batch_number", "chunk_number", "edge")


class UnreadableChunk(ValueError):
    """A chunk whose items are not those that it counts, or cannot be read."""

    def __init__(self, chunk: ChunkItems) -> None:
        super().__init__(
            f"the items of chunk {chunk.chunk_number} of batch {chunk.batch_id} cannot be read, or"
            f" are not {chunk.items:,}, as it counts"
        )


def insert_item_edges(connection: Connection, chunks: list[ChunkItems]) -> None:
    """Store the right edge of the tree of each chunk's items. Raises UnreadableChunk.

    The chunks are in the order of their batch and number, and there is at least one.
    """
    items = _read_items(connection, chunks)
    rows = []
    for chunk in chunks:
        found = items.get((chunk.batch_number, chunk.chunk_number), [])
        if len(found) != chunk.items:
            raise UnreadableChunk(chunk)
        try:
            edge = items_edge(found) if found else NO_LEAVES
        except (TypeError, AttributeError, ValueError):
            raise UnreadableChunk(chunk) from None
        rows.append((chunk.batch_number, chunk.chunk_number, edge.to_bytes()))
    insert_rows(connection, ItemEdge.__tablename__, _COLUMNS, rows)


def _read_items(
    connection: Connection, chunks: list[ChunkItems]
) -> dict[tuple[int, int], list[GrantRow]]:
    """Read the items of chunks by batch and chunk number, with one query for all."""
    first, last = chunks[0], chunks[-1]
    position = tuple_(Grant.batch_number, Grant.item_number)
    query = (
        select(
            *(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.code),
            *(Grant.detail, Grant.digest),
        )
        .where(position >= (first.batch_number, first.first))
        .where(position < (last.batch_number, last.stop))
        .order_by(Grant.batch_number, Grant.item_number)
    )
    sizes = {chunk.batch_number: chunk.stop - chunk.first for chunk in chunks}
    items: dict[tuple[int, int], list[GrantRow]] = {}
    for number, *values in connection.execute(query):
        if number in sizes:
            row = GrantRow(*values)
            items.setdefault((number, row.item_number // sizes[number]), []).append(row)
    return items

"""Removes grants: on PostgreSQL whole partitions, on SQLite the rows of chunk after chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Select, func, select, text, tuple_

from models import Batch, Chunk, Grant, ItemEdge
from models.partitions import PARTITIONED
from worker.db.retention.partitions import Partition

_LOCK_TIME = "2s"
_IS_OWNER = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:t)")
_READ_TRIGGER = text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
_DELETE = "DELETE FROM grants WHERE batch_number = ? AND item_number >= ? AND item_number < ?"


class ChunkItems(NamedTuple):
    """A chunk, and the range of its item numbers."""

    batch_id: str
    batch_number: int
    chunk_number: int
    first: int
    stop: int
    items: int


def owns_grants(connection: Connection) -> bool:
    """Return whether the connection's role may drop partitions."""
    return bool(connection.scalar(_IS_OWNER, {"t": PARTITIONED}))


def lock_grants(connection: Connection) -> None:
    """Lock the partitioned table before anything else is locked, as every insertion does.

    Raises DBAPIError if a reader holds it for longer than two seconds: all others wait meanwhile.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIME}'")
    connection.exec_driver_sql(f"LOCK TABLE {PARTITIONED} IN ACCESS EXCLUSIVE MODE")


def drop_partition(connection: Connection, partition: Partition) -> None:
    """Drop a partition with its rows."""
    name = connection.dialect.identifier_preparer.quote_identifier(partition.name)
    connection.exec_driver_sql(f"DROP TABLE {name}")


def chunks_before(
    connection: Connection, before: datetime, after: tuple[int, int], max_items: int
) -> list[ChunkItems]:
    """Return the next chunks issued before a moment, with at most max_items items, or one chunk.

    after is the batch and the number of the last chunk of the previous call.
    """
    return list(_limited(connection, _chunks(before, after, max_items), max_items))


def chunks_without_edge(
    connection: Connection,
    since: datetime | None,
    before: datetime,
    after: tuple[int, int],
    max_items: int,
) -> list[ChunkItems]:
    """Return the next chunks as `chunks_before` does: those without a row in `item_edges`.

    since excludes older chunks, whose items were removed before.
    """
    is_edge = (ItemEdge.batch_number == Chunk.batch_number) & (
        ItemEdge.chunk_number == Chunk.chunk_number
    )
    query = _chunks(before, after, max_items).where(~select(ItemEdge).where(is_edge).exists())
    if since is not None:
        query = query.where(Chunk.issued_at >= since)
    return list(_limited(connection, query, max_items))


def _chunks(
    before: datetime, after: tuple[int, int], limit: int
) -> Select[str, int, int, int, int]:
    items = Chunk.issued + Chunk.refused
    return (
        select(Batch.batch_id, Chunk.batch_number, Chunk.chunk_number, Batch.chunk_size, items)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .where(Chunk.issued_at < before)
        .where(tuple_(Chunk.batch_number, Chunk.chunk_number) > after)
        .order_by(Chunk.batch_number, Chunk.chunk_number)
        .limit(limit)
    )


def _limited(
    connection: Connection, query: Select[str, int, int, int, int], max_items: int
) -> Iterator[ChunkItems]:
    total = 0
    for batch_id, batch_number, chunk_number, size, items in connection.execute(query):
        total += items
        if total > max_items and total > items:
            return
        first = chunk_number * size
        yield ChunkItems(batch_id, batch_number, chunk_number, first, first + size, items)


def delete_chunks(connection: Connection, chunks: list[ChunkItems]) -> int:
    """Delete the grants of chunks on SQLite; return how many there were."""
    ranges = [(chunk.batch_number, chunk.first, chunk.stop) for chunk in chunks]
    with deletable(connection, PARTITIONED):
        return connection.exec_driver_sql(_DELETE, ranges).rowcount


@contextmanager
def deletable(connection: Connection, table: str) -> Iterator[None]:
    """Let rows of an append-only table be deleted in the block, which one transaction contains.

    On PostgreSQL only the owner of the table can do it, and nobody else writes to it meanwhile.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIME}'")
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        yield
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER append_only")
        return
    name = f"{table}_no_delete"
    trigger = connection.scalar(_READ_TRIGGER, {"name": name})
    if trigger is not None:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    if trigger is not None:
        connection.exec_driver_sql(trigger)


def has_grants(connection: Connection, before: datetime) -> bool:
    """Return whether a chunk that was issued before a moment still has grants."""
    first = Chunk.chunk_number * Batch.chunk_size
    query = (
        select(func.count())
        .select_from(Chunk)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .join(Grant, (Grant.batch_number == Chunk.batch_number) & (Grant.item_number == first))
        .where(Chunk.issued_at < before)
    )
    return bool(connection.scalar(query))

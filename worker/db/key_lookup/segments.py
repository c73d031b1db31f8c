"""Writes the segments of the key lookup, within the caller's transactions."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, select, tuple_, update

from models import Batch, Grant, KeyPage, KeySegment, UnindexedChunk
from worker.db.inserts import insert_rows

_PAGE_COLUMNS = ("segment_number", "page_number", "entries")
_INSERT_SEGMENT = insert(KeySegment).returning(KeySegment.segment_number)
_CHUNK_KEY = tuple_(UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
_OLDEST_CHUNKS = (
    select(UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
    .order_by(UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
    .limit(bindparam("limit"))
)


def _keys_query() -> Select[int, int, int, str]:
    first_item = UnindexedChunk.chunk_number * Batch.chunk_size
    chunk_key = tuple_(UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
    return (
        select(
            *(UnindexedChunk.chunk_number, Grant.batch_number, Grant.item_number, Grant.object_key)
        )
        .select_from(UnindexedChunk)
        .join(Batch, Batch.batch_number == UnindexedChunk.batch_number)
        .join(
            Grant,
            (Grant.batch_number == UnindexedChunk.batch_number)
            & (Grant.item_number >= first_item)
            & (Grant.item_number < first_item + Batch.chunk_size),
        )
        .where(chunk_key >= tuple_(bindparam("first_batch"), bindparam("first_chunk")))
        .where(chunk_key <= tuple_(bindparam("last_batch"), bindparam("last_chunk")))
    )


_KEYS = _keys_query()


class Segment(NamedTuple):
    """A segment, complete or being built. See models.KeySegment."""

    segment_number: int
    entries: int
    page_bits: int
    oldest_batch: int
    newest_batch: int


ChunkKey = tuple[int, int]


class SegmentLost(Exception):
    """Another process has indexed the same chunks, or merged the same segments."""


def read_unindexed_chunks(connection: Connection, limit: int) -> list[ChunkKey]:
    """Read the primary keys of the oldest chunks that are in no segment."""
    return [(row[0], row[1]) for row in connection.execute(_OLDEST_CHUNKS, {"limit": limit})]


def read_keys(
    connection: Connection, chunks: Sequence[ChunkKey]
) -> Iterable[Row[int, int, int, str]]:
    """Read chunk, batch and item numbers and object keys of unindexed chunks in a range.

    chunks are sorted. Rows of other chunks that lie between the first and the last are read as
    well.
    """
    (first_batch, first_chunk), (last_batch, last_chunk) = chunks[0], chunks[-1]
    parameters = {
        "first_batch": first_batch,
        "first_chunk": first_chunk,
        "last_batch": last_batch,
        "last_chunk": last_chunk,
    }
    return connection.execute(_KEYS, parameters)


def delete_unindexed_chunks(connection: Connection, chunks: Sequence[ChunkKey]) -> None:
    """Delete the rows of chunks that are indexed now. Raises SegmentLost if one is missing."""
    result = connection.execute(delete(UnindexedChunk).where(_CHUNK_KEY.in_(chunks)))
    if result.rowcount != len(chunks):
        raise SegmentLost


def insert_segment(connection: Connection, state: str, values: Segment, now: datetime) -> int:
    """Insert a segment without its pages, and return its number; that in values is ignored."""
    columns = values._asdict() | {"state": state, "changed_at": now}
    del columns["segment_number"]
    return connection.execute(_INSERT_SEGMENT, columns).scalar_one()


def insert_pages(
    connection: Connection, segment_number: int, pages: Iterable[tuple[int, bytes]]
) -> None:
    """Insert pages of a segment."""
    rows = [(segment_number, page_number, content) for page_number, content in pages]
    if rows:
        insert_rows(connection, KeyPage.__tablename__, _PAGE_COLUMNS, rows)


def read_segments(connection: Connection, max_entries: int) -> list[Segment]:
    """Read the complete segments with at most so many entries, oldest first."""
    columns = [getattr(KeySegment, name) for name in Segment._fields]
    query = (
        select(*columns)
        .where(KeySegment.state == "complete", KeySegment.entries <= max_entries)
        .order_by(KeySegment.newest_batch, KeySegment.segment_number)
    )
    return [Segment(*row) for row in connection.execute(query)]


def read_pages(connection: Connection, segment_number: int, first: int, end: int) -> list[bytes]:
    """Read the contents of the pages from number first up to, not including, end."""
    query = select(KeyPage.entries).where(
        KeyPage.segment_number == segment_number,
        KeyPage.page_number >= first,
        KeyPage.page_number < end,
    )
    return list(connection.scalars(query))


def change_state(
    connection: Connection, numbers: Sequence[int], before: str, after: str, now: datetime
) -> None:
    """Change the state of segments. Raises SegmentLost if one is no longer in the state before."""
    statement = (
        update(KeySegment)
        .where(KeySegment.segment_number.in_(numbers), KeySegment.state == before)
        .values(state=after, changed_at=now)
    )
    if connection.execute(statement).rowcount != len(numbers):
        raise SegmentLost


def expire_building_segments(connection: Connection, changed_before: datetime) -> None:
    """Mark as obsolete what a process was building that has made no progress since."""
    connection.execute(
        update(KeySegment)
        .where(KeySegment.state == "building", KeySegment.changed_at < changed_before)
        .values(state="obsolete")
    )


def has_building_segment(connection: Connection) -> bool:
    """Return whether a segment is being built."""
    query = select(KeySegment.segment_number).where(KeySegment.state == "building").limit(1)
    return connection.scalar(query) is not None


def delete_obsolete_segment(connection: Connection) -> int:
    """Delete one obsolete segment with its pages, and return how many were deleted."""
    query = select(KeySegment.segment_number).where(KeySegment.state == "obsolete").limit(1)
    number = connection.scalar(query.with_for_update(skip_locked=True))
    if number is None:
        return 0
    connection.execute(delete(KeyPage).where(KeyPage.segment_number == number))
    connection.execute(delete(KeySegment).where(KeySegment.segment_number == number))
    return 1

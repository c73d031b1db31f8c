"""Finds an object key in the audit log, at no cost to the transactions that write it.

A database index on object keys would halve the rate of issuing, because keys arrive in no order.
Instead, the cleanup task sorts the keys of recent chunks into segments, which are never changed and
are merged into larger ones. A search reads one page of each segment and the few chunks that are in
none yet.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    delete,
    insert,
    literal,
    select,
    true,
    tuple_,
)

from models import Batch, Grant, KeyPage, KeySegment, UnindexedChunk
from worker.base.database_engine import insert_rows, read_transaction, write_transaction
from worker.shared.grant_items import is_in_chunk

if TYPE_CHECKING:  # commands that look for a key start without the worker's services and jobs
    from worker.base.jobs import JobRun
    from worker.context import Context


HASH_BITS = 32
# A page has to fit into the row of a page of the database: 8 kB on PostgreSQL, which moves values
# over 2 kB out of the row.
_MAX_PAGE_ENTRIES = 128
_HASH_BYTES, _POSITION_BYTES, _ITEM_BYTES = HASH_BITS // 8, 8, 3  # of 1,000,000 items at most
_MAX_ITEM = (1 << 8 * _ITEM_BYTES) - 1
_MAX_POSITION = b"\xff" * (_POSITION_BYTES + 1)  # greater than any position
ENTRY_BYTES = _HASH_BYTES + _POSITION_BYTES


class Position(NamedTuple):
    """The primary key of an audit row."""

    batch_number: int
    item_number: int


def hash_key(object_key: str) -> bytes:
    """Return the hash of an object key. Different keys may have the same one."""
    return blake2b(object_key.encode(), digest_size=_HASH_BYTES).digest()


def make_entry(object_key: str, batch_number: int, item_number: int) -> bytes:
    """Return an entry. Entries sort by hash, and then by position."""
    return hash_key(object_key) + _pack(Position(batch_number, item_number))


def page_bits_for(entries: int) -> int:
    """Return the number of bits of a hash that divide so many entries into small pages."""
    return (entries // _MAX_PAGE_ENTRIES).bit_length()


def page_of(hash_: bytes, page_bits: int) -> int:
    """Return the number of the page with the entries of a hash."""
    return int.from_bytes(hash_, "big") >> (HASH_BITS - page_bits)


def divide_into_pages(entries: Sequence[bytes], page_bits: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each page that has entries; entries are sorted."""
    for page, group in groupby(entries, lambda entry: page_of(entry[:_HASH_BYTES], page_bits)):
        yield page, b"".join(group)


def split_page(content: bytes) -> list[bytes]:
    """Return the entries of a page."""
    return [content[at : at + ENTRY_BYTES] for at in range(0, len(content), ENTRY_BYTES)]


def newest_positions(content: bytes, hash_: bytes, before: Position | None) -> Iterator[Position]:
    """Yield the positions of a hash in a page, newest first, and only those before a position."""
    numbers = range(len(content) // ENTRY_BYTES)

    def entry(number: int) -> bytes:
        return content[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]

    first = bisect_left(numbers, hash_, key=entry)
    end = bisect_left(
        numbers, hash_ + (_MAX_POSITION if before is None else _pack(before)), first, key=entry
    )
    for number in reversed(numbers[first:end]):
        yield _unpack(entry(number)[_HASH_BYTES:])


def _pack(position: Position) -> bytes:
    batch_number, item_number = position
    number = (batch_number << 8 * _ITEM_BYTES) | item_number
    return number.to_bytes(_POSITION_BYTES, "big")


def _unpack(position: bytes) -> Position:
    number = int.from_bytes(position, "big")
    return Position(number >> 8 * _ITEM_BYTES, number & _MAX_ITEM)


_ROWS_PER_READ = 50
_IS_IN_CHUNK = is_in_chunk(Grant, UnindexedChunk)


def find_positions(
    connection: Connection, object_key: str, before: Position | None = None
) -> Generator[Position]:
    """Yield the positions at which an object key may be, newest first, each once.

    Misses no row that was committed before the first one is read. Rows of another key with the same
    hash are yielded as well: the caller compares the keys. With before, only older positions are
    yielded. Needs a transaction, and reads on while the caller iterates: close the iterator before
    the transaction ends, unless it is exhausted.
    """
    hash_ = hash_key(object_key)
    number = literal(int.from_bytes(hash_, "big"), BigInteger)
    page = select(KeyPage.entries).where(
        KeyPage.segment_number == KeySegment.segment_number,
        KeyPage.page_number == number.bitwise_rshift(HASH_BITS - KeySegment.page_bits),
    )
    # Not a join: without statistics, SQLite would read all pages, and search the segment of each.
    pages = select(page.scalar_subquery()).select_from(KeySegment)
    unindexed = _unindexed_query(connection.dialect.name, object_key, before)
    # In this order, each a snapshot: a chunk that is indexed meanwhile is found twice, not missed.
    with closing(connection.execute(unindexed)) as rows:
        in_chunks = (Position(*row) for row in rows)
        contents = filter(None, connection.scalars(pages).all())
        in_pages = (newest_positions(content, hash_, before) for content in contents)
        for position, _ in groupby(merge(in_chunks, *in_pages, reverse=True)):
            yield position


def _unindexed_query(dialect: str, object_key: str, before: Position | None) -> Select[int, int]:
    rows = (
        select(Grant.batch_number, Grant.item_number)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .where(Grant.object_key == object_key, _IS_IN_CHUNK)
    )
    if before is not None:
        rows = rows.where(
            tuple_(Grant.batch_number, Grant.item_number)
            < tuple_(*before, types=(BigInteger, Integer))
        )
    item_number: ColumnElement[int]
    if dialect == "sqlite":
        query, item_number = rows, Grant.item_number.expression
    else:
        # OFFSET makes PostgreSQL go from chunk to chunk. Right after many chunks were indexed, its
        # statistics still count them, and it would scan all grants instead.
        in_chunk = rows.correlate(UnindexedChunk).offset(0).lateral()
        query = select(in_chunk).select_from(UnindexedChunk).join(in_chunk, true())
        item_number = in_chunk.c.item_number
    return query.order_by(
        UnindexedChunk.batch_number.desc(), UnindexedChunk.chunk_number.desc(), item_number.desc()
    ).execution_options(yield_per=_ROWS_PER_READ)


_PAGE_COLUMNS = ("segment_number", "page_number", "entries")
_CHUNK_KEY = (UnindexedChunk.batch_number, UnindexedChunk.chunk_number)
# Rows of other chunks that lie between the first and the last are read as well.
_KEYS = (
    select(UnindexedChunk.chunk_number, Grant.batch_number, Grant.item_number, Grant.object_key)
    .select_from(UnindexedChunk)
    .join(Batch, Batch.batch_number == UnindexedChunk.batch_number)
    .join(Grant, _IS_IN_CHUNK)
)

MIN_CHUNKS, MAX_CHUNKS = 16, 128
"""The numbers of chunks that make a segment. Fewer are not indexed: a search scans them."""
MERGED_SEGMENTS = 8
MAX_MERGED_ENTRIES = 1 << 16
"""The size over which segments stay as they are: a search reads one page for each.

One transaction writes all that are merged into one, and other writers of SQLite wait for it.
"""


def write_segment(connection: Connection, entries: Sequence[bytes]) -> None:
    """Insert a segment with its pages; entries are sorted."""
    page_bits = page_bits_for(len(entries))
    segment = insert(KeySegment).returning(KeySegment.segment_number)
    values = {"entries": len(entries), "page_bits": page_bits}
    number = connection.execute(segment, values).scalar_one()
    pages = [(number, *page) for page in divide_into_pages(entries, page_bits)]
    if pages:
        insert_rows(connection, KeyPage.__tablename__, _PAGE_COLUMNS, pages)


def index_keys(context: "Context", run: "JobRun | None" = None) -> dict[str, int]:
    """Index chunks until fewer than MIN_CHUNKS are left, and merge segments.

    Any number of processes may do this at once, and it may be killed at any time. Returns counts.
    Raises Transient.
    """
    if run is None:
        from worker.base.jobs import JobRun  # noqa: PLC0415

        run = JobRun()
    counts = {"indexed_chunks": 0, "merged_segments": 0}
    while not run.is_stopping:
        indexed, merged = _index_chunks(context), _merge_segments(context)
        counts["indexed_chunks"] += indexed
        counts["merged_segments"] += merged
        run.progress()
        if indexed == 0 and merged == 0:
            break
    return counts


# In both steps, all is read and sorted before other writers have to wait. Rows that are missing
# afterwards were indexed or merged by another process meanwhile.


def _index_chunks(context: "Context") -> int:
    """Index the oldest chunks in one segment, and return their number."""
    with read_transaction(context.engine) as connection:
        oldest = select(*_CHUNK_KEY).order_by(*_CHUNK_KEY).limit(MAX_CHUNKS)
        chunks = [(batch, chunk) for batch, chunk in connection.execute(oldest)]
        if len(chunks) < MIN_CHUNKS:
            return 0
        are_indexed = set(chunks)
        is_between = tuple_(*_CHUNK_KEY) >= chunks[0], tuple_(*_CHUNK_KEY) <= chunks[-1]
        entries = sorted(
            make_entry(key, batch, item)
            for chunk, batch, item, key in connection.execute(_KEYS.where(*is_between))
            if (batch, chunk) in are_indexed
        )
    is_indexed = tuple_(*_CHUNK_KEY).in_(chunks)
    with write_transaction(context.engine) as connection:
        if not _lock(connection, select(*_CHUNK_KEY).where(is_indexed), len(chunks)):
            return 0
        connection.execute(delete(UnindexedChunk).where(is_indexed))
        if entries:  # their audit rows may be gone
            write_segment(connection, entries)
        return len(chunks)


def _merge_segments(context: "Context") -> int:
    """Merge segments of a similar size, if there are enough, and return their number."""
    number = KeySegment.segment_number
    candidates = select(number, KeySegment.entries).where(KeySegment.entries <= MAX_MERGED_ENTRIES)
    with read_transaction(context.engine) as connection:
        sources = _choose_sources(connection.execute(candidates.order_by(number)))
        if not sources:
            return 0
        is_page = KeyPage.segment_number.in_(sources)
        contents = connection.scalars(select(KeyPage.entries).where(is_page))
        entries = sorted(entry for content in contents for entry in split_page(content))
    with write_transaction(context.engine) as connection:
        if not _lock(connection, select(number).where(number.in_(sources)), len(sources)):
            return 0
        # Before the sources are deleted: SQLite would give a number of theirs again, and another
        # process that has read them would delete the new segment.
        write_segment(connection, entries)
        connection.execute(delete(KeyPage).where(is_page))
        connection.execute(delete(KeySegment).where(number.in_(sources)))
        return len(sources)


def _choose_sources(candidates: Iterable[Row[int, int]]) -> Sequence[int]:
    """Return the numbers of the oldest segments of a similar size; candidates have their sizes."""
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for number, entries in candidates:
        similar = by_size[(entries.bit_length() - 1) // (MERGED_SEGMENTS.bit_length() - 1)]
        similar.append(number)
        if len(similar) == MERGED_SEGMENTS:
            return similar
    return ()


def _lock(connection: Connection, rows: Select[*tuple[Any, ...]], number: int) -> bool:
    """Lock rows in one order, and return whether there still are as many."""
    locked = rows.order_by(*rows.selected_columns).with_for_update()
    return len(connection.execute(locked).all()) == number

"""Finds an object key in the audit log, at no cost to the transactions that write it.

A database index on object keys would halve the rate of issuing, because keys arrive in no order.
Instead, the cleanup task sorts the keys of recent chunks into segments, which are never changed and
are merged into larger ones. A search reads one page of each segment and the few chunks that are in
none yet.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from hashlib import blake2b
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    cast,
    delete,
    insert,
    select,
    true,
    tuple_,
    update,
)

from models import Batch, Grant, KeyPage, KeySegment, UnindexedChunk
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.inserts import insert_rows
from worker.ledger.chunk_items import is_in_chunk

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
    start = 0
    while start < len(entries):
        page = page_of(entries[start][:_HASH_BYTES], page_bits)
        after = (page + 1) << (HASH_BITS - page_bits)  # the first hash of the next page
        end = len(entries)
        if after < 1 << HASH_BITS:
            end = bisect_left(entries, after.to_bytes(_HASH_BYTES, "big"), start)
        yield page, b"".join(entries[start:end])
        start = end


def split_page(content: bytes) -> Iterable[bytes]:
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
_IN_CHUNK = (
    select(Grant.batch_number, Grant.item_number)
    .join(Batch, Batch.batch_number == Grant.batch_number)
    .where(Grant.object_key == bindparam("key"), _IS_IN_CHUNK)
)
_PAGE_NUMBER = cast(bindparam("hash"), BigInteger).bitwise_rshift(HASH_BITS - KeySegment.page_bits)
_PAGES = (
    select(KeyPage.entries)
    .join(KeySegment, KeySegment.segment_number == KeyPage.segment_number)
    .where(KeyPage.page_number == _PAGE_NUMBER, KeySegment.state == "complete")
)


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
    parameters = {"key": object_key, "hash": int.from_bytes(hash_, "big")}
    unindexed, pages = _unindexed_query(connection.dialect.name, before), _PAGES
    if before is not None:
        pages = pages.where(KeySegment.oldest_batch <= before.batch_number)
    # In this order, each a snapshot: a chunk that is indexed meanwhile is found twice, not missed.
    with closing(connection.execute(unindexed, parameters)) as rows:
        in_chunks = (Position(*row) for row in rows)
        contents = connection.scalars(pages, parameters).all()
        in_pages = (newest_positions(content, hash_, before) for content in contents)
        for position, _ in groupby(merge(in_chunks, *in_pages, reverse=True)):
            yield position


def _unindexed_query(dialect: str, before: Position | None) -> Select[int, int]:
    rows = _IN_CHUNK
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
MERGED_SEGMENTS = 16
MAX_MERGED_ENTRIES = 1 << 20
"""The size over which segments stay as they are: a search reads one page for each."""
_STALE = timedelta(minutes=10)
_ENTRIES_PER_STEP = 50_000  # in one transaction, which makes other writers wait


class Segment(NamedTuple):
    """A segment, complete or being built. See models.KeySegment."""

    segment_number: int
    entries: int
    page_bits: int
    oldest_batch: int
    newest_batch: int


class SegmentLost(Exception):
    """Another process has indexed the same chunks, or merged the same segments."""


def insert_segment(connection: Connection, state: str, values: Segment, now: datetime) -> int:
    """Insert a segment without its pages, and return its number; that in values is ignored."""
    columns = values._asdict() | {"state": state, "changed_at": now}
    del columns["segment_number"]
    statement = insert(KeySegment).returning(KeySegment.segment_number)
    return connection.execute(statement, columns).scalar_one()


def insert_pages(
    connection: Connection, segment_number: int, pages: Iterable[tuple[int, bytes]]
) -> None:
    """Insert pages of a segment."""
    rows = [(segment_number, page_number, content) for page_number, content in pages]
    if rows:
        insert_rows(connection, KeyPage.__tablename__, _PAGE_COLUMNS, rows)


def _change_state(
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
        indexed = _index_chunks(context)
        merged = _merge_segments(context, run)
        counts["indexed_chunks"] += indexed
        counts["merged_segments"] += merged
        run.progress()
        if indexed == 0 and merged == 0:
            break
    _delete_obsolete(context, run)
    return counts


def _index_chunks(context: "Context") -> int:
    """Index the oldest chunks in one segment, and return their number."""
    with read_transaction(context.engine) as connection:
        oldest = select(*_CHUNK_KEY).order_by(*_CHUNK_KEY).limit(MAX_CHUNKS)
        chunks = [(batch, chunk) for batch, chunk in connection.execute(oldest)]
        if len(chunks) < MIN_CHUNKS:
            return 0
        are_indexed = set(chunks)
        is_between = tuple_(*_CHUNK_KEY) >= chunks[0], tuple_(*_CHUNK_KEY) <= chunks[-1]
        # All of this is read and sorted before other writers have to wait.
        entries = sorted(
            make_entry(key, batch, item)
            for chunk, batch, item, key in connection.execute(_KEYS.where(*is_between))
            if (batch, chunk) in are_indexed
        )
    page_bits = page_bits_for(len(entries))
    segment = Segment(0, len(entries), page_bits, chunks[0][0], chunks[-1][0])
    indexed = delete(UnindexedChunk).where(tuple_(*_CHUNK_KEY).in_(chunks))
    with suppress(SegmentLost), write_transaction(context.engine) as connection:
        if connection.execute(indexed).rowcount != len(chunks):
            raise SegmentLost
        if entries:  # their audit rows may be gone
            number = insert_segment(connection, "complete", segment, context.now())
            insert_pages(connection, number, divide_into_pages(entries, page_bits))
        return len(chunks)
    return 0


def _merge_segments(context: "Context", run: "JobRun") -> int:
    """Merge segments of a similar size, if there are enough, and return their number."""
    candidates = (
        select(*(getattr(KeySegment, name) for name in Segment._fields))
        .where(KeySegment.state == "complete", KeySegment.entries <= MAX_MERGED_ENTRIES)
        .order_by(KeySegment.newest_batch, KeySegment.segment_number)
    )
    building = select(KeySegment.segment_number).where(KeySegment.state == "building").limit(1)
    with read_transaction(context.engine) as connection:
        sources = _choose_sources([Segment(*row) for row in connection.execute(candidates)])
        if not sources or connection.scalar(building) is not None:
            return 0
    with suppress(SegmentLost):
        return len(sources) if _merge(context, run, sources) else 0
    return 0


def _choose_sources(candidates: Sequence[Segment]) -> Sequence[Segment]:
    by_size: defaultdict[int, list[Segment]] = defaultdict(list)
    for segment in candidates:
        size = (segment.entries.bit_length() - 1) // (MERGED_SEGMENTS.bit_length() - 1)
        by_size[size].append(segment)
        if len(by_size[size]) == MERGED_SEGMENTS:
            return by_size[size]
    return ()


def _merge(context: "Context", run: "JobRun", sources: Sequence[Segment]) -> bool:
    """Build a segment in small transactions, which no search reads, and then replace the sources.

    Returns whether that was done before the run had to stop. Raises SegmentLost if the sources were
    merged by another process, or this one was too slow.
    """
    entries = sum(source.entries for source in sources)
    oldest = min(source.oldest_batch for source in sources)
    newest = max(source.newest_batch for source in sources)
    target = Segment(0, entries, page_bits_for(entries), oldest, newest)
    with write_transaction(context.engine) as connection:
        number = insert_segment(connection, "building", target, context.now())
    for step in _sorted_steps(context, sources, entries):
        pages = list(divide_into_pages(step, target.page_bits))
        with write_transaction(context.engine) as connection:
            _change_state(connection, [number], "building", "building", context.now())
            insert_pages(connection, number, pages)
        run.progress()
        if run.is_stopping:
            with write_transaction(context.engine) as connection:
                _change_state(connection, [number], "building", "obsolete", context.now())
            return False
    source_numbers = [source.segment_number for source in sources]
    with write_transaction(context.engine) as connection:
        _change_state(connection, [number], "building", "complete", context.now())
        _change_state(connection, source_numbers, "complete", "obsolete", context.now())
    return True


def _sorted_steps(
    context: "Context", sources: Sequence[Segment], entries: int
) -> Iterator[list[bytes]]:
    """Yield the entries of all sources in order, in steps that end at the end of a page."""
    bits = (entries // _ENTRIES_PER_STEP).bit_length()
    bits = min(bits, *(source.page_bits for source in sources))
    for step in range(1 << bits):
        merged: list[bytes] = []
        with read_transaction(context.engine) as connection:
            for source in sources:
                shift = source.page_bits - bits
                pages = select(KeyPage.entries).where(
                    KeyPage.segment_number == source.segment_number,
                    KeyPage.page_number >= step << shift,
                    KeyPage.page_number < (step + 1) << shift,
                )
                for content in connection.scalars(pages):
                    merged += split_page(content)
        merged.sort()  # fast, because it consists of sorted runs
        yield merged


def _delete_obsolete(context: "Context", run: "JobRun") -> None:
    """Delete segments that were merged, or that a process was building and made no progress."""
    state, number = KeySegment.state, KeySegment.segment_number
    is_stale = state == "building", KeySegment.changed_at < context.now() - _STALE
    with write_transaction(context.engine) as connection:
        connection.execute(update(KeySegment).where(*is_stale).values(state="obsolete"))
    obsolete = select(number).where(state == "obsolete").limit(1).with_for_update(skip_locked=True)
    while not run.is_stopping:
        with write_transaction(context.engine) as connection:
            deleted = connection.scalar(obsolete)
            if deleted is None:
                return
            connection.execute(delete(KeyPage).where(KeyPage.segment_number == deleted))
            connection.execute(delete(KeySegment).where(number == deleted))
        run.progress()

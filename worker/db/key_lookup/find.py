"""Finds the positions of an object key in the audit log."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from heapq import heappop, heappush, merge
from itertools import groupby

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    cast,
    select,
    true,
    tuple_,
)

from models import Batch, Grant, KeyPage, KeySegment, UnindexedChunk
from worker.db.key_lookup.entries import HASH_BITS, Position, hash_key, newest_positions

_Head = tuple[int, int, int, Iterator[Position]]
_ROWS_PER_READ = 50  # a frequent key is in all segments, and most searches need the newest ones
_IN_CHUNK = (
    select(Grant.batch_number, Grant.item_number)
    .join(Batch, Batch.batch_number == Grant.batch_number)
    .where(
        Grant.object_key == bindparam("key"),
        Grant.batch_number == UnindexedChunk.batch_number,
        Grant.item_number >= UnindexedChunk.chunk_number * Batch.chunk_size,
        Grant.item_number < (UnindexedChunk.chunk_number + 1) * Batch.chunk_size,
    )
)
_PAGE_NUMBER = cast(bindparam("hash"), BigInteger).bitwise_rshift(HASH_BITS - KeySegment.page_bits)
_PAGES = (
    select(KeySegment.newest_batch, KeyPage.entries)
    .join(
        KeyPage,
        and_(
            KeyPage.segment_number == KeySegment.segment_number,
            KeyPage.page_number == _PAGE_NUMBER,
        ),
    )
    .where(KeySegment.state == "complete")
    .order_by(KeySegment.newest_batch.desc())
    .execution_options(yield_per=_ROWS_PER_READ)
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
    with (
        closing(connection.execute(unindexed, parameters)) as chunk_rows,
        closing(connection.execute(pages, parameters)) as page_rows,
    ):
        in_chunks = (Position(*row) for row in chunk_rows)
        in_pages = _positions_in_pages(page_rows, hash_, before)
        for position, _ in groupby(merge(in_chunks, in_pages, reverse=True)):
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


def _positions_in_pages(
    pages: Iterable[Row[int, bytes]], hash_: bytes, before: Position | None
) -> Iterator[Position]:
    """Merge the positions in pages of several segments, reading no page before it is needed."""
    heads: list[_Head] = []
    for newest_batch, content in pages:
        yield from _newer_positions(heads, newest_batch)
        _push(heads, newest_positions(content, hash_, before))
    yield from _newer_positions(heads, -1)


def _newer_positions(heads: list[_Head], batch_number: int) -> Iterator[Position]:
    while heads and -heads[0][0] > batch_number:
        batch, item, _, positions = heappop(heads)
        yield Position(-batch, -item)
        _push(heads, positions)


def _push(heads: list[_Head], positions: Iterator[Position]) -> None:
    """Add the next position to a heap, whose least element is the newest position."""
    head = next(positions, None)
    if head is not None:
        heappush(heads, (-head.batch_number, -head.item_number, id(positions), positions))

"""Streams the audit log of grants, oldest first, in blocks of chunks.

The values that the items of a chunk share are read and formatted once. Each block is one statement
on chunks and one on grants, so no transaction stays open while rows are written elsewhere.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from models import Batch, Chunk, Grant
from worker.db.audit.filters import (
    GrantFilter,
    batch_conditions,
    item_conditions,
    scan_conditions,
)

_CHUNKS_PER_READ = 2_000
_ROWS_PER_BLOCK = 10_000
_FIRST_POSITION = (0, -1)


class Position(NamedTuple):
    """A chunk, by its numbers. Chunks are streamed in their order."""

    batch_number: int
    chunk_number: int


class Bound(NamedTuple):
    """The end of a stream: it contains what was decided before a moment, up to a batch number.

    Both are fixed when a stream begins, so that items that arrive meanwhile are not in it.
    """

    batch_number: int
    decided_before: datetime


class ChunkHead(NamedTuple):
    """The values that the items of a chunk share."""

    batch_number: int
    chunk_number: int
    issued: int
    refused: int
    time: datetime
    expires_in: int
    signed_by: str | None
    tenant: str
    requested_by: str
    recipient: str | None
    reason: str | None
    bucket: str
    kind: str
    batch_id: str
    chunk_size: int

    @property
    def expires_at(self) -> datetime:
        """The expiry of the issued items."""
        return self.time + timedelta(seconds=self.expires_in)

    @property
    def position(self) -> Position:
        """The position of the chunk."""
        return Position(self.batch_number, self.chunk_number)


ItemRow = tuple[int, int, str, str | None]
"""A batch number, item number, object key and, for a refused item, its code."""


class ChunkItems(NamedTuple):
    """A chunk and those of its items that match the filter."""

    head: ChunkHead
    items: Sequence[ItemRow]


_COLUMNS = (
    *(Chunk.batch_number, Chunk.chunk_number, Chunk.issued, Chunk.refused, Chunk.issued_at),
    *(Chunk.expires_in, Chunk.signing_key, Batch.tenant, Batch.requested_by, Batch.recipient),
    *(Batch.reason, Batch.bucket, Batch.kind, Batch.batch_id, Batch.chunk_size),
)


def read_bound(connection: Connection, now: datetime) -> Bound:
    """Return the bound of a stream that begins now."""
    return Bound(connection.scalar(select(func.max(Batch.batch_number))) or 0, now)


def count_streamed(
    connection: Connection, grant_filter: GrantFilter, bound: Bound, after: Position | None = None
) -> int:
    """Count the items of the chunks of a stream, whether or not each item matches."""
    query = select(func.sum(Chunk.issued + Chunk.refused)).join(
        Batch, Batch.batch_number == Chunk.batch_number
    )
    conditions = _chunk_conditions(connection, grant_filter, bound, after or _FIRST_POSITION)
    return int(connection.scalar(query.where(*conditions)) or 0)


def stream_blocks(
    connection: Connection, grant_filter: GrantFilter, bound: Bound, after: Position | None = None
) -> Iterator[list[ChunkItems]]:
    """Yield the items that match a filter, in blocks of whole chunks, starting after a position.

    The connection is in autocommit mode. Chunks without matching items are included.
    """
    position: tuple[int, int] = after or _FIRST_POSITION
    while True:
        conditions = _chunk_conditions(connection, grant_filter, bound, position)
        query = (
            select(*_COLUMNS)
            .join(Batch, Batch.batch_number == Chunk.batch_number)
            .where(*conditions)
            .order_by(Chunk.batch_number, Chunk.chunk_number)
            .limit(_CHUNKS_PER_READ)
        )
        heads = [ChunkHead._make(row) for row in connection.execute(query)]
        for block in _split(heads):
            yield _read_items(connection, grant_filter, block)
        if len(heads) < _CHUNKS_PER_READ:
            return
        position = heads[-1].position


def _chunk_conditions(
    connection: Connection, grant_filter: GrantFilter, bound: Bound, after: tuple[int, int]
) -> Iterator[ColumnElement[bool]]:
    yield from batch_conditions(connection, grant_filter)
    yield from scan_conditions(connection, grant_filter)
    yield Chunk.batch_number <= bound.batch_number
    yield Chunk.issued_at < bound.decided_before
    yield tuple_(Chunk.batch_number, Chunk.chunk_number) > after


def _split(heads: list[ChunkHead]) -> Iterator[list[ChunkHead]]:
    block: list[ChunkHead] = []
    rows = 0
    for head in heads:
        block.append(head)
        rows += head.issued + head.refused
        if rows >= _ROWS_PER_BLOCK:
            yield block
            block, rows = [], 0
    if block:
        yield block


def _read_items(
    connection: Connection, grant_filter: GrantFilter, heads: list[ChunkHead]
) -> list[ChunkItems]:
    items = _matching_items(connection, grant_filter, heads)
    block, end = [], 0
    for head in heads:
        first = head.chunk_number * head.chunk_size
        start = bisect_left(items, (head.batch_number, first), end)
        end = bisect_left(items, (head.batch_number, first + head.chunk_size), start)
        block.append(ChunkItems(head, items[start:end]))
    return block


def _matching_items(
    connection: Connection, grant_filter: GrantFilter, heads: list[ChunkHead]
) -> list[Any]:
    first, last = heads[0], heads[-1]
    position = tuple_(Grant.batch_number, Grant.item_number)
    query = (
        select(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.code)
        .where(
            position >= (first.batch_number, first.chunk_number * first.chunk_size),
            position < (last.batch_number, (last.chunk_number + 1) * last.chunk_size),
            *item_conditions(connection, grant_filter),
        )
        .order_by(Grant.batch_number, Grant.item_number)
    )
    numbers = {head.batch_number for head in heads}
    if len(numbers) <= last.batch_number - first.batch_number:  # the filter left out batches
        query = query.where(Grant.batch_number.in_(sorted(numbers)))
    result = connection.execute(query)
    if result.cursor is None:
        raise RuntimeError("the database returned no rows to read")
    # The driver's tuples: making a Row of each would take as long as reading it.
    rows = list(result.cursor.fetchall())
    result.close()
    return rows

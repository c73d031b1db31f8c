"""Reads the audit log: pages of grants, new grants, and a stream of all.

The stream reads and formats the values that the items of a chunk share once. Each block is one
statement on chunks and one on grants, so no transaction stays open while rows are written.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, func, select, tuple_

from models import Annotation, Batch, Chunk, Grant, Leaf, TreeHead
from valetkey.wire.grant_ids import grant_id
from worker.audit.grant_filters import (
    ISSUED,
    GrantFilter,
    batch_conditions,
    item_conditions,
    scan_conditions,
    select_items,
)
from worker.audit.index_scans import read_rows
from worker.audit.key_lookup import Position
from worker.audit.text_conditions import batch_text, item_text, joined_text, shown_text
from worker.ledger.merkle import CHUNK_KINDS
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.grant_names import GrantName
from worker.shared.pages import Page, in_parts


class GrantRecord(NamedTuple):
    """One requested item. decision is `issued` or the code of the refusal. tenant is an id.

    signed_by is the name of the tenant's key that signed the request; None if the tenant trusts
    the queue and the request was not signed. key_thumbprint is that of the public key (RFC 7638).
    recipient is for whom the grant was requested, and ref
    the producer's own reference. An erased text is `(erased)`. expires_at is None for a refused
    item.
    """

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    key_thumbprint: str | None
    recipient: str | None
    reason: str | None
    ref: str | None
    bucket: str
    kind: str
    key: str
    decision: str
    expires_at: datetime | None
    grant: str


COLUMNS = GrantRecord._fields
NARROW = ("recipient", "requested_by", "grant", "time", "tenant", "decision", "key")
WIDE = ("time", "tenant", "requested_by", "recipient", "kind", "decision", "key", "grant")
"""The columns that a narrow and a wide terminal show: who got what, and the id to ask for more."""

SHARED_COLUMNS = COLUMNS[: COLUMNS.index("key")]
"""The columns of a record whose values the items of a chunk share, but for texts of their own."""


class UnknownCursor(LookupError):
    """The audit log has no batch with this id, or several tenants have one."""


_SHARED: dict[str, Any] = {
    "time": Chunk.issued_at,
    "tenant": Batch.tenant,
    "requested_by": shown_text(Batch, "requested_by"),
    "signed_by": Chunk.signing_key,
    "key_thumbprint": Chunk.key_thumbprint,
    "bucket": Batch.bucket,
    "kind": Batch.kind,
} | {name: batch_text(name) for name in ANNOTATION_FIELDS}
_OF_ITEM = _SHARED | {name: item_text(name) for name in ANNOTATION_FIELDS}
LIST_COLUMNS = (
    *(_OF_ITEM[name] for name in SHARED_COLUMNS),
    *(Chunk.issued_at, Chunk.expires_in, Batch.batch_id),
    *(Grant.item_number, Grant.object_key, Grant.code),
)
"""The columns of a query from which to_record makes a record."""


def read_grants(
    connection: Connection, grant_filter: GrantFilter, limit: int, after: GrantName | None = None
) -> Page[GrantRecord]:
    """Read at most limit grants, newest first, starting after the given position.

    Rows neither change nor move. Paging through them returns each row that existed at the start
    exactly once, even if rows are added meanwhile. Raises UnknownCursor if after does not
    name one batch.
    """
    # One row beyond the limit shows whether there are more.
    records = list(stream_grants(connection, grant_filter, after, limit + 1))
    return Page(records[:limit], has_more=len(records) > limit)


def stream_grants(
    connection: Connection,
    grant_filter: GrantFilter,
    after: GrantName | None = None,
    limit: int | None = None,
) -> Iterator[GrantRecord]:
    """Yield grants of a filter, newest first, in constant memory. Raises as read_grants does.

    Needs a transaction, which has to stay open while the caller iterates.
    """
    start = None if after is None else _find_start(connection, after)
    with closing(read_rows(connection, grant_filter, LIST_COLUMNS, start, limit)) as rows:
        yield from map(to_record, islice(rows, limit))


def record_cursor(record: GrantRecord) -> GrantName:
    """Return the position of a record, to read the page after it."""
    batch_id, _, item_number = record.grant.rpartition(".")
    return GrantName(batch_id, int(item_number), record.tenant)


def find_batches(connection: Connection, batch_id: str) -> list[tuple[str, int]]:
    """Return the tenant id and the number of each batch with an id, by tenant."""
    query = select(Batch.tenant, Batch.batch_number).where(Batch.batch_id == batch_id)
    return [(row.tenant, row.batch_number) for row in connection.execute(query.order_by("tenant"))]


def _find_start(connection: Connection, cursor: GrantName) -> Position:
    batches = find_batches(connection, cursor.batch_id)
    numbers = [number for tenant, number in batches if cursor.tenant in {None, tenant}]
    if not numbers:
        raise UnknownCursor("the audit log has no batch with this id")
    if len(numbers) > 1:
        text = "several tenants have a batch with this id: name one, as in TENANT/BATCH.NUMBER"
        raise UnknownCursor(text)
    return Position(numbers[0], cursor.item_number)


def to_record(row: Row[*tuple[Any, ...]]) -> GrantRecord:
    """Make a record of a row with LIST_COLUMNS."""
    expires_at = None if row.code else row.issued_at + timedelta(seconds=row.expires_in)
    own = row.object_key, row.code or ISSUED, expires_at, grant_id(row.batch_id, row.item_number)
    return GrantRecord._make((*row[: len(SHARED_COLUMNS)], *own))


Heads = Mapping[str, int]
"""The number of leaves in each tenant's tree."""

_NEW_CHUNKS_PER_READ = 100


def read_heads(connection: Connection) -> Heads:
    """Return the sizes of all tenants' trees."""
    return {row.tenant: row.size for row in connection.execute(select(TreeHead))}


def read_new_grants(
    connection: Connection, grant_filter: GrantFilter, before: Heads, now: Heads
) -> Iterator[GrantRecord]:
    """Yield the rows of a filter that were committed between two states, oldest first.

    Leaves are numbered in the order of the commits, without gaps. So no row is missed, even if a
    transaction with a smaller batch number is committed later, or a chunk is added to an old batch.
    """
    for chunks in in_parts(sorted(_new_chunks(connection, before, now)), _NEW_CHUNKS_PER_READ):
        query = (
            select_items(connection, grant_filter, LIST_COLUMNS)
            .where(tuple_(Chunk.batch_number, Chunk.chunk_number).in_(chunks))
            .where(Batch.batch_number.in_({batch for batch, _ in chunks}))
            .order_by(Batch.batch_number, Chunk.chunk_number, Grant.item_number)
        )
        yield from map(to_record, connection.execute(query, execution_options={"yield_per": 500}))


def _new_chunks(connection: Connection, before: Heads, now: Heads) -> Iterator[Any]:
    for tenant, size in now.items():
        if size > before.get(tenant, 0):
            query = select(Leaf.batch_number, Leaf.chunk_number).where(
                *(Leaf.tenant == tenant, Leaf.leaf_number >= before.get(tenant, 0)),
                *(Leaf.leaf_number < size, Leaf.kind.in_(CHUNK_KINDS)),
            )
            yield from map(tuple, connection.execute(query))


_CHUNKS_PER_READ = 2_000
_ROWS_PER_BLOCK = 10_000
_FIRST_POSITION = (0, -1)


class StreamPosition(NamedTuple):
    """A chunk, by its numbers. Chunks are streamed in their order."""

    batch_number: int
    chunk_number: int


class Bound(NamedTuple):
    """The end of a stream: it contains what was decided before a time, up to a batch number.

    Both are fixed when a stream begins, so that items that arrive meanwhile are not in it.
    """

    batch_number: int
    decided_before: datetime


class ChunkHead(NamedTuple):
    """The values that some items of a chunk share. values has those of SHARED_COLUMNS."""

    values: Mapping[str, Any]
    batch_number: int
    chunk_number: int
    issued: int
    refused: int
    expires_in: int
    batch_id: str
    chunk_size: int

    @property
    def expires_at(self) -> datetime:
        """The expiry of the issued items."""
        decided_at: datetime = self.values["time"]
        return decided_at + timedelta(seconds=self.expires_in)

    @property
    def position(self) -> StreamPosition:
        """The position of the chunk."""
        return StreamPosition(self.batch_number, self.chunk_number)


ItemRow = tuple[int, int, str, str | None]
"""A batch number, item number, object key and, for a refused item, its code."""


class ChunkItems(NamedTuple):
    """A chunk, or the part with equal texts, and those of its items that match the filter."""

    head: ChunkHead
    items: Sequence[ItemRow]


def to_records(block: list[ChunkItems]) -> Iterator[GrantRecord]:
    """Yield the records of a block."""
    for head, items in block:
        shared, expires_at = tuple(head.values.values()), head.expires_at
        for _, item_number, key, code in items:
            own = key, code or ISSUED, None if code else expires_at
            yield GrantRecord._make((*shared, *own, grant_id(head.batch_id, item_number)))


def read_bound(connection: Connection, now: datetime) -> Bound:
    """Return the bound of a stream that begins now."""
    return Bound(connection.scalar(select(func.max(Batch.batch_number))) or 0, now)


def count_streamed(
    connection: Connection,
    grant_filter: GrantFilter,
    bound: Bound,
    after: StreamPosition | None = None,
) -> int:
    """Count the items of the chunks of a stream, whether or not each item matches."""
    query = select(func.sum(Chunk.issued + Chunk.refused)).join(
        Batch, Batch.batch_number == Chunk.batch_number
    )
    conditions = _chunk_conditions(connection, grant_filter, bound, after or _FIRST_POSITION)
    return int(connection.scalar(query.where(*conditions)) or 0)


def stream_blocks(
    connection: Connection,
    grant_filter: GrantFilter,
    bound: Bound,
    after: StreamPosition | None = None,
) -> Iterator[list[ChunkItems]]:
    """Yield the items that match a filter, in blocks of whole chunks, starting after a position.

    The connection is in autocommit mode. Chunks without matching items are included.
    """
    position: tuple[int, int] = after or _FIRST_POSITION
    own = Chunk.batch_number, Chunk.chunk_number, Chunk.issued, Chunk.refused, Chunk.expires_in
    shared, number = [_SHARED[name] for name in SHARED_COLUMNS], len(SHARED_COLUMNS)
    query = (
        select(*shared, *own, Batch.batch_id, Batch.chunk_size)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .order_by(Chunk.batch_number, Chunk.chunk_number)
        .limit(_CHUNKS_PER_READ)
    )
    while True:
        conditions = _chunk_conditions(connection, grant_filter, bound, position)
        rows = connection.execute(query.where(*conditions))
        heads = [
            ChunkHead(dict(zip(SHARED_COLUMNS, row[:number], strict=True)), *row[number:])
            for row in rows
        ]
        for block in _split_heads(heads):
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


def _split_heads(heads: list[ChunkHead]) -> Iterator[list[ChunkHead]]:
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
    texts = _read_texts(connection, heads)
    block, end = list[ChunkItems](), 0
    for head in heads:
        first = head.chunk_number * head.chunk_size
        start = bisect_left(items, (head.batch_number, first), end)
        end = bisect_left(items, (head.batch_number, first + head.chunk_size), start)
        chunk = ChunkItems(head, items[start:end])
        block += _split_by_texts(chunk, texts) if texts and chunk.items else [chunk]
    return block


def _split_by_texts(
    chunk: ChunkItems, texts: Mapping[Any, Mapping[str, Any]]
) -> Iterator[ChunkItems]:
    """Yield the items of a chunk in their order, always those together whose texts are equal."""
    for own, items in groupby(chunk.items, lambda item: texts.get(item[:2], {})):
        values = {**chunk.head.values, **own}
        yield ChunkItems(chunk.head._replace(values=values), list(items))


def _read_texts(connection: Connection, heads: list[ChunkHead]) -> dict[Any, dict[str, Any]]:
    """Read the texts of the items that have any of their own, by batch and item number."""
    query = (
        select(
            Annotation.batch_number, Annotation.item_number, *map(joined_text, ANNOTATION_FIELDS)
        )
        .join(Batch, Batch.batch_number == Annotation.batch_number)
        .where(*_are_in_block(Annotation, heads))
    )
    rows = connection.execute(query)
    return {row[:2]: dict(zip(ANNOTATION_FIELDS, row[2:], strict=True)) for row in rows}


def _matching_items(
    connection: Connection, grant_filter: GrantFilter, heads: list[ChunkHead]
) -> list[Any]:
    query = (
        select(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.code)
        .where(*_are_in_block(Grant, heads), *item_conditions(connection, grant_filter))
        .order_by(Grant.batch_number, Grant.item_number)
    )
    if grant_filter.texts:
        query = query.join(Batch, Batch.batch_number == Grant.batch_number)
    result = connection.execute(query)
    if result.cursor is None:
        raise RuntimeError("the database returned no rows to read")
    # The driver's tuples: making a Row of each would take as long as reading it.
    rows = list(result.cursor.fetchall())
    result.close()
    return rows


def _are_in_block(table: Any, heads: list[ChunkHead]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that rows of a table with the key of `Grant` are of some chunks."""
    first, last = heads[0], heads[-1]
    position = tuple_(table.batch_number, table.item_number)
    yield position >= (first.batch_number, first.chunk_number * first.chunk_size)
    yield position < (last.batch_number, (last.chunk_number + 1) * last.chunk_size)
    numbers = {head.batch_number for head in heads}
    if len(numbers) <= last.batch_number - first.batch_number:  # the filter left out batches
        yield table.batch_number.in_(sorted(numbers))

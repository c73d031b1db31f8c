"""Reads the audit log: pages of grants, new grants, a stream of all, and cancellations.

The stream reads and formats the values that the items of a chunk share once. Each block is one
statement on chunks and one on grants, so no transaction stays open while rows are written.
"""

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, tuple_

from models import Batch, Cancellation, Chunk, Grant, Leaf, TreeHead
from valetkey.wire.grant_ids import grant_id
from worker.audit.grant_filters import (
    ISSUED,
    GrantFilter,
    batch_conditions,
    item_conditions,
    join_items,
    scan_conditions,
)
from worker.audit.index_scans import (
    has_positions,
    range_conditions,
    read_refused_rows,
    read_rows_of_states,
    selects_refusals,
)
from worker.audit.key_lookup import Position, read_rows_of_key
from worker.base.pages import Page, fetch_page
from worker.core.issued_grants import GrantName
from worker.ledger.tenant_history import is_of_tenant

_ROWS_PER_READ = 1_000
_Rows = Generator[Row[*tuple[Any, ...]], None, Position | None]
_RowReader = Callable[[Connection, GrantFilter, Sequence[Any], Position | None], _Rows]


class GrantRecord(NamedTuple):
    """One requested item. decision is `issued` or the code of the refusal. tenant is an id.

    signed_by is the name of the tenant's key that signed the request; None if the tenant trusts
    the queue and the request was not signed. recipient is for whom the grant was requested.
    expires_at is None for a refused item.
    """

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    recipient: str | None
    reason: str | None
    bucket: str
    kind: str
    key: str
    decision: str
    expires_at: datetime | None
    grant: str


class AuditCount(NamedTuple):
    """The numbers of issued and refused items of one kind, of the tenant with an id."""

    tenant: str
    kind: str
    issued: int
    refused: int


class UnknownCursor(LookupError):
    """The audit log has no batch with this id."""


class AmbiguousCursor(LookupError):
    """Several tenants have a batch with this id."""


LIST_COLUMNS = (
    *(Chunk.issued_at, Chunk.expires_in, Chunk.signing_key),
    *(Batch.tenant, Batch.requested_by, Batch.reason, Batch.recipient, Batch.bucket, Batch.kind),
    Batch.batch_id,
    *(Grant.object_key, Grant.code, Grant.item_number),
)
"""The columns of a query from which to_record makes a record."""


def read_grants(
    connection: Connection,
    grant_filter: GrantFilter,
    limit: int,
    after: GrantName | None = None,
) -> Page[GrantRecord]:
    """Read at most limit grants, newest first, starting after the given position.

    Rows neither change nor move. Paging through them returns each row that existed at the start
    exactly once, even if rows are added meanwhile. Raises UnknownCursor if no batch has the id in
    after, and AmbiguousCursor if batches of several tenants have it.
    """
    start = None if after is None else _find_start(connection, after)
    # One row beyond the limit shows whether there are more.
    with closing(_read_rows(connection, grant_filter, start, limit + 1)) as rows:
        records = [to_record(row) for row in islice(rows, limit + 1)]
    return Page(records[:limit], has_more=len(records) > limit)


def stream_grants(
    connection: Connection, grant_filter: GrantFilter, after: GrantName | None = None
) -> Iterator[GrantRecord]:
    """Yield all grants of a filter, newest first, in constant memory. Raises as read_grants does.

    Needs a transaction, which has to stay open while the caller iterates.
    """
    start = None if after is None else _find_start(connection, after)
    return map(to_record, _read_rows(connection, grant_filter, start))


def _read_rows(
    connection: Connection,
    grant_filter: GrantFilter,
    start: Position | None,
    limit: int | None = None,
) -> Generator[Row[*tuple[Any, ...]]]:
    """Read at most limit rows, newest first, without holding all of them if there is no limit."""
    if grant_filter.object_key is not None:
        conditions = list(_conditions(connection, grant_filter))
        yield from read_rows_of_key(
            connection, LIST_COLUMNS, conditions, grant_filter.object_key, start
        )
        return
    read_rows: _RowReader | None = None
    if selects_refusals(grant_filter):
        read_rows = read_refused_rows
    elif has_positions(grant_filter):
        read_rows = read_rows_of_states
    if read_rows is not None:
        start = yield from read_rows(connection, grant_filter, LIST_COLUMNS, start)
        if start is None:
            return
    query = grants_query(connection, grant_filter)
    if start is not None:
        query = query.where(*_start_conditions(connection, start))
    # On PostgreSQL, this makes a cursor on the server.
    options = {} if limit is not None else {"yield_per": _ROWS_PER_READ}
    yield from connection.execute(query.limit(limit), execution_options=options)


def grants_query(connection: Connection, grant_filter: GrantFilter) -> Select[Any]:
    """Return the query for the rows of a filter, newest first."""
    # Reads batch by batch in the order of their numbers. Batches and chunks that do not match are
    # skipped whole, and a page costs the same at the end of the log as at its beginning.
    return (
        join_items(connection, *LIST_COLUMNS)
        .where(*_conditions(connection, grant_filter), *scan_conditions(connection, grant_filter))
        .order_by(Batch.batch_number.desc(), Chunk.chunk_number.desc(), Grant.item_number.desc())
    )


def _conditions(connection: Connection, grant_filter: GrantFilter) -> Iterator[ColumnElement[bool]]:
    yield from range_conditions(connection, grant_filter)
    yield from batch_conditions(connection, grant_filter)
    yield from item_conditions(connection, grant_filter)


def count_items_by_kind(connection: Connection, grant_filter: GrantFilter) -> list[AuditCount]:
    """Count issued and refused items by tenant and kind.

    Applies only the conditions on batches and chunks, and ignores those on single items.
    """
    query = (
        select(Batch.tenant, Batch.kind, func.sum(Chunk.issued), func.sum(Chunk.refused))
        .join(Chunk, Chunk.batch_number == Batch.batch_number)
        .where(*batch_conditions(connection, grant_filter))
        .group_by(Batch.tenant, Batch.kind)
        .order_by(Batch.tenant, Batch.kind)
    )
    return [AuditCount(*row) for row in connection.execute(query)]


def record_cursor(record: GrantRecord) -> GrantName:
    """Return the position of a record, to read the page after it."""
    batch_id, _, item_number = record.grant.rpartition(".")
    return GrantName(batch_id, int(item_number), record.tenant)


def _find_start(connection: Connection, cursor: GrantName) -> Position:
    query = select(Batch.batch_number).where(Batch.batch_id == cursor.batch_id)
    if cursor.tenant is not None:
        query = query.where(Batch.tenant == cursor.tenant)
    numbers = connection.scalars(query.limit(2)).all()
    if not numbers:
        raise UnknownCursor(cursor)
    if len(numbers) > 1:
        raise AmbiguousCursor(cursor)
    return Position(numbers[0], cursor.item_number)


def _start_conditions(connection: Connection, start: Position) -> Iterator[ColumnElement[bool]]:
    batch_number, item_number = start
    is_batch = Batch.batch_number == batch_number
    chunk_number = item_number // connection.scalars(select(Batch.chunk_size).where(is_batch)).one()
    # The first conditions alone let the scans of indexes start at the chunk. The last one finds the
    # item in the chunk.
    yield Batch.batch_number <= batch_number
    yield tuple_(Chunk.batch_number, Chunk.chunk_number) <= (batch_number, chunk_number)
    yield tuple_(Grant.batch_number, Grant.item_number) < start


def to_record(row: Row[*tuple[Any, ...]]) -> GrantRecord:
    """Make a record of a row with LIST_COLUMNS."""
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return GrantRecord(
        time=row.issued_at,
        tenant=row.tenant,
        requested_by=row.requested_by,
        signed_by=row.signing_key,
        recipient=row.recipient,
        reason=row.reason,
        bucket=row.bucket,
        kind=row.kind,
        key=row.object_key,
        decision=row.code or ISSUED,
        expires_at=None if row.code else expires_at,
        grant=grant_id(row.batch_id, row.item_number),
    )


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
    chunks = sorted(_new_chunks(connection, before, now))
    for start in range(0, len(chunks), _NEW_CHUNKS_PER_READ):
        query = (
            join_items(connection, *LIST_COLUMNS)
            .where(
                tuple_(Chunk.batch_number, Chunk.chunk_number).in_(
                    chunks[start : start + _NEW_CHUNKS_PER_READ]
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


_CHUNKS_PER_READ = 2_000
_ROWS_PER_BLOCK = 10_000
_FIRST_POSITION = (0, -1)


class StreamPosition(NamedTuple):
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
    """The values that the items of a chunk share. The first eight are columns of GrantRecord."""

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    recipient: str | None
    reason: str | None
    bucket: str
    kind: str
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
        return self.time + timedelta(seconds=self.expires_in)

    @property
    def position(self) -> StreamPosition:
        """The position of the chunk."""
        return StreamPosition(self.batch_number, self.chunk_number)


ItemRow = tuple[int, int, str, str | None]
"""A batch number, item number, object key and, for a refused item, its code."""


class ChunkItems(NamedTuple):
    """A chunk and those of its items that match the filter."""

    head: ChunkHead
    items: Sequence[ItemRow]


_STREAM_COLUMNS = (
    *(Chunk.issued_at, Batch.tenant, Batch.requested_by, Chunk.signing_key, Batch.recipient),
    *(Batch.reason, Batch.bucket, Batch.kind, Chunk.batch_number, Chunk.chunk_number),
    *(Chunk.issued, Chunk.refused, Chunk.expires_in, Batch.batch_id, Batch.chunk_size),
)


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
    while True:
        conditions = _chunk_conditions(connection, grant_filter, bound, position)
        query = (
            select(*_STREAM_COLUMNS)
            .join(Batch, Batch.batch_number == Chunk.batch_number)
            .where(*conditions)
            .order_by(Chunk.batch_number, Chunk.chunk_number)
            .limit(_CHUNKS_PER_READ)
        )
        heads = [ChunkHead._make(row) for row in connection.execute(query)]
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


class CancellationRecord(NamedTuple):
    """A cancelled batch: when, by whom and why it was cancelled.

    signed_by is the name of the tenant's key that signed the request; None if it was not signed.
    """

    at: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    reason: str | None
    batch: str


def read_cancellations(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[CancellationRecord]:
    """Read at most limit cancellations, newest first. A filter that is None matches everything."""
    query = select(
        *(Cancellation.cancelled_at, Cancellation.tenant, Cancellation.requested_by),
        *(Cancellation.signing_key, Cancellation.reason, Cancellation.batch_id),
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Cancellation.tenant, tenant))
    if since is not None:
        query = query.where(Cancellation.cancelled_at >= since)
    query = query.order_by(Cancellation.cancelled_at.desc())
    return fetch_page(connection, query, limit, lambda row: CancellationRecord(*row))

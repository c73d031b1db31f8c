"""The audit log of grants: every requested item, and the decision on it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, tuple_

from models import Batch, Chunk, Grant
from valetkey.wire.grant_ids import grant_id
from worker.core.links.grant_name import GrantName
from worker.db.audit.filters import (
    GrantFilter,
    batch_conditions,
    item_conditions,
    join_items,
    scan_conditions,
)
from worker.db.audit.pages import Page
from worker.db.audit.selection.batch_range import range_conditions
from worker.db.audit.selection.refused_rows import read_refused_rows, selects_refusals
from worker.db.audit.selection.state_rows import has_positions, read_rows_of_states
from worker.db.key_lookup.entries import Position
from worker.db.key_lookup.rows import read_rows_of_key

_ROWS_PER_READ = 1_000
_Rows = Generator[Row[*tuple[Any, ...]], None, Position | None]
_RowReader = Callable[[Connection, GrantFilter, Sequence[Any], Position | None], _Rows]


class AuditRecord(NamedTuple):
    """One requested item. decision is "issued" or the code of the refusal. tenant is an id.

    signed_by is the name of the tenant's key that signed the request; None if the tenant trusts
    the queue and the request was not signed. expires_at is None for a refused item.
    """

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    reason: str | None
    recipient: str | None
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


class _Start(NamedTuple):
    """The position of a cursor, and its chunk."""

    position: Position
    chunk_number: int


class UnknownCursor(LookupError):
    """The audit log has no batch with this id."""


class AmbiguousCursor(LookupError):
    """Several tenants have a batch with this id."""


COLUMNS = (
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
) -> Page[AuditRecord]:
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
) -> Iterator[AuditRecord]:
    """Yield all grants of a filter, newest first, in constant memory. Raises as read_grants does.

    Needs a transaction, which has to stay open while the caller iterates.
    """
    start = None if after is None else _find_start(connection, after)
    return map(to_record, _read_rows(connection, grant_filter, start))


def _read_rows(
    connection: Connection,
    grant_filter: GrantFilter,
    start: _Start | None,
    limit: int | None = None,
) -> Generator[Row[*tuple[Any, ...]]]:
    """Read at most limit rows, newest first, without holding all of them if there is no limit."""
    if grant_filter.object_key is not None:
        position = None if start is None else start.position
        conditions = list(_conditions(connection, grant_filter))
        yield from read_rows_of_key(
            connection, COLUMNS, conditions, grant_filter.object_key, position
        )
        return
    read_rows = _reader_by_position(grant_filter)
    if read_rows is not None:
        before = None if start is None else start.position
        last = yield from read_rows(connection, grant_filter, COLUMNS, before)
        if last is None:
            return
        start = _start_after(connection, last)
    query = grants_query(connection, grant_filter)
    if start is not None:
        query = query.where(*_start_conditions(start))
    # On PostgreSQL, this makes a cursor on the server.
    options = {} if limit is not None else {"yield_per": _ROWS_PER_READ}
    yield from connection.execute(query.limit(limit), execution_options=options)


def _reader_by_position(grant_filter: GrantFilter) -> _RowReader | None:
    """Return the function that reads the rows of a filter by their positions, if there is one."""
    if selects_refusals(grant_filter):
        return read_refused_rows
    return read_rows_of_states if has_positions(grant_filter) else None


def grants_query(connection: Connection, grant_filter: GrantFilter) -> Select[Any]:
    """Return the query for the rows of a filter, newest first."""
    # Reads batch by batch in the order of their numbers. Batches and chunks that do not match are
    # skipped whole, and a page costs the same at the end of the log as at its beginning.
    return (
        join_items(connection, *COLUMNS)
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


def record_cursor(record: AuditRecord) -> GrantName:
    """Return the position of a record, to read the page after it."""
    batch_id, _, item_number = record.grant.rpartition(".")
    return GrantName(batch_id, int(item_number), record.tenant)


def _find_start(connection: Connection, cursor: GrantName) -> _Start:
    query = select(Batch.batch_number, Batch.chunk_size).where(Batch.batch_id == cursor.batch_id)
    if cursor.tenant is not None:
        query = query.where(Batch.tenant == cursor.tenant)
    batches = connection.execute(query.limit(2)).all()
    if not batches:
        raise UnknownCursor(cursor)
    if len(batches) > 1:
        raise AmbiguousCursor(cursor)
    batch_number, chunk_size = batches[0]
    return _Start(Position(batch_number, cursor.item_number), cursor.item_number // chunk_size)


def _start_after(connection: Connection, position: Position) -> _Start:
    is_batch = Batch.batch_number == position.batch_number
    chunk_size = connection.execute(select(Batch.chunk_size).where(is_batch)).scalar_one()
    return _Start(position, position.item_number // chunk_size)


def _start_conditions(start: _Start) -> Iterator[ColumnElement[bool]]:
    # The first conditions alone let the scans of indexes start at the chunk. The last one finds the
    # item in the chunk.
    batch_number = start.position.batch_number
    yield Batch.batch_number <= batch_number
    yield tuple_(Chunk.batch_number, Chunk.chunk_number) <= (batch_number, start.chunk_number)
    yield tuple_(Grant.batch_number, Grant.item_number) < start.position


def to_record(row: Row[*tuple[Any, ...]]) -> AuditRecord:
    """Make a record of a row with COLUMNS."""
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return AuditRecord(
        time=row.issued_at,
        tenant=row.tenant,
        requested_by=row.requested_by,
        signed_by=row.signing_key,
        reason=row.reason,
        recipient=row.recipient,
        bucket=row.bucket,
        kind=row.kind,
        key=row.object_key,
        decision=row.code or "issued",
        expires_at=None if row.code else expires_at,
        grant=grant_id(row.batch_id, row.item_number),
    )

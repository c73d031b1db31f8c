"""Reads the rows of a filter, newest first, by the index that suits it.

The time of a chunk has no index. But batches are numbered about in the order of their times, and a
chunk is decided soon after its batch: see the constants.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from heapq import merge
from itertools import groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)

from models import Batch, Chunk, Grant, RefusedChunk, Settlement, Use
from models.base import NUMBER
from worker.audit.grant_filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    item_conditions,
    moment_of_states,
    scan_conditions,
    select_items,
)
from worker.audit.key_lookup import Position, find_positions
from worker.audit.state_conditions import LONGEST_VALIDITY, USED_STATES, may_cause_state
from worker.rules.issued_grants import MAX_OPEN_TIME
from worker.shared.pages import parse_items
from worker.shared.tenant_history import find_tenant_ids, is_of_tenant

# The numbers of two batches can be in another order than their times: clocks differ, and a
# transaction waits for others between reading the clock and getting its number. S3 refuses what is
# signed with a clock that is wrong by 15 minutes.
_DISORDER = timedelta(hours=1)
# From reading the clock to the commit, a chunk may wait for storage, credentials and the database.
_DECISION_TIME = timedelta(hours=1)
# Literals, because a partial index is used only if the statement itself contains its condition.
_IS_LATE = (Chunk.chunk_number > literal_column("0"), Chunk.issued == literal_column("0"))
_IS_REFUSED = Grant.code.is_not(None)

_RANGES_PER_READ, _MAX_READ = 256, 2_000  # ranges of items, or positions
_ROWS_PER_RANGE = 4  # on average at most, because all items of many chunks can be refused
_ROWS_PER_READ = 1_000
# As one parameter: SQLAlchemy compiles a statement with a list of VALUES each time.
_RANGES = {
    "sqlite": text(
        "SELECT json_extract(value, '$[0]') AS batch_number, json_extract(value, '$[1]') AS first,"
        " json_extract(value, '$[2]') AS \"end\" FROM json_each(:ranges)"
    ),
    "postgresql": text(
        "SELECT CAST(value ->> 0 AS bigint) AS batch_number,"
        ' CAST(value ->> 1 AS integer) AS first, CAST(value ->> 2 AS integer) AS "end"'
        " FROM jsonb_array_elements(CAST(:ranges AS jsonb))"
    ),
}
# The codes of all refused items, at one search of the index for each.
_REFUSAL_CODES = text(
    "WITH RECURSIVE codes (code) AS ("
    "SELECT min(code) FROM grants WHERE code IS NOT NULL"
    " UNION ALL"
    " SELECT (SELECT min(code) FROM grants WHERE code > codes.code AND code IS NOT NULL)"
    " FROM codes WHERE codes.code IS NOT NULL"
    ") SELECT code FROM codes WHERE code IS NOT NULL"
)

_Row = Row[*tuple[Any, ...]]
_Rows = Generator[_Row, None, Position | None]
_Query = Select[*tuple[Any, ...]]


class _ItemRange(NamedTuple):
    """Items of a batch, from first up to, not including, end."""

    batch_number: int
    first: int
    end: int


_Index = Callable[[Position | None], list[_ItemRange]]
"""Returns the next ranges, newest first, that have all rows of a filter before a position.

It returns _RANGES_PER_READ of them, or fewer if there are no others.
"""


def read_rows(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    before: Position | None,
    limit: int | None = None,
) -> Generator[_Row]:
    """Yield the rows of a filter, newest first, and only those before a position.

    The caller needs no more than limit. Without one, this holds few rows at a time. The transaction
    has to stay open while the caller iterates: close the iterator before, unless it is exhausted.
    """
    if grant_filter.object_key is not None:
        with closing(find_positions(connection, grant_filter.object_key, before)) as positions:
            query = _select_in_ranges(connection, grant_filter, columns)
            yield from _read_ranges(connection, query, [_to_index(positions)], before, None)
        return
    indexed: _Rows | None = None
    if _selects_refusals(grant_filter):
        query = _select_in_ranges(connection, grant_filter, columns)
        indexed = _read_refused_rows(connection, grant_filter, query, before)
    elif grant_filter.states and USED_STATES.union({"unused"}).issuperset(grant_filter.states):
        index = _to_index(_positions_of_states(connection, grant_filter, before))
        query = _select_in_ranges(connection, grant_filter, columns)
        indexed = _read_ranges(connection, query, [index], before, _MAX_READ)
    if indexed is not None:
        before = yield from indexed
        if before is None:
            return
    yield from _scan(connection, grant_filter, columns, before, limit)


def _scan(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    before: Position | None,
    limit: int | None,
) -> Iterator[_Row]:
    """Read batch by batch in the order of their numbers.

    Batches and chunks that do not match are skipped whole, and a page costs the same at the end of
    the log as at its beginning.
    """
    query = (
        select_items(connection, grant_filter, columns)
        .where(*_range_conditions(connection, grant_filter))
        .where(*scan_conditions(connection, grant_filter))
        .order_by(Batch.batch_number.desc(), Chunk.chunk_number.desc(), Grant.item_number.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(*_start_conditions(connection, before))
    # On PostgreSQL, this makes a cursor on the server.
    options = {} if limit is not None else {"yield_per": _ROWS_PER_READ}
    return connection.execute(query, execution_options=options)


def _start_conditions(connection: Connection, start: Position) -> Iterator[ColumnElement[bool]]:
    chunk_number = start.item_number // _chunk_size(connection, start.batch_number)
    # The first conditions alone let the scans of indexes start at the chunk. The last one finds the
    # item in the chunk.
    yield Batch.batch_number <= start.batch_number
    yield tuple_(Chunk.batch_number, Chunk.chunk_number) <= (start.batch_number, chunk_number)
    yield tuple_(Grant.batch_number, Grant.item_number) < start


def _chunk_size(connection: Connection, batch_number: int) -> int:
    query = select(Batch.chunk_size).where(Batch.batch_number == batch_number)
    return connection.execute(query).scalar_one()


def _range_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield conditions on batch numbers that every row of a filter fulfils.

    They only save time: a query also has the conditions of the filter itself.
    """
    grant = grant_filter.grant
    batch_ids = {grant_filter.batch_id, grant and grant.batch_id} - {None}
    if batch_ids:
        yield _is_batch(connection, grant_filter, batch_ids)
        return
    before, after = batch_bounds(connection, grant_filter)
    if before is not None:
        yield from (Batch.batch_number > before, Chunk.batch_number > before)
    if after is not None:
        yield from (Batch.batch_number < after, Chunk.batch_number < after)


def batch_bounds(
    connection: Connection, grant_filter: GrantFilter
) -> tuple[int | None, int | None]:
    """Return the numbers between which all batches of a filter's times are, both exclusive."""
    since, until = _earliest(grant_filter), grant_filter.until
    before = None if since is None else _last_before(connection, since)
    after = None if until is None else _first_after(connection, until)
    return before, after


def _earliest(grant_filter: GrantFilter) -> datetime | None:
    """Return the time since which the rows of a filter were decided: open grants are not old."""
    if set(grant_filter.states) != {"open"}:
        return grant_filter.since
    began = moment_of_states(grant_filter) - LONGEST_VALIDITY
    return began if grant_filter.since is None else max(began, grant_filter.since)


def _is_batch(
    connection: Connection, grant_filter: GrantFilter, batch_ids: set[str | None]
) -> ColumnElement[bool]:
    query = select(Batch.batch_number).where(Batch.batch_id.in_(sorted(filter(None, batch_ids))))
    if grant_filter.tenant is not None:
        query = query.where(is_of_tenant(connection, Batch.tenant, grant_filter.tenant))
    numbers = connection.scalars(query).all()
    # An equation lets the database read the rows in their order.
    is_batch: ColumnElement[bool] = Batch.batch_number.in_(numbers)
    return Batch.batch_number == numbers[0] if len(numbers) == 1 else is_batch


def _last_before(connection: Connection, since: datetime) -> int | None:
    """Return a batch number that is less than those of all chunks decided since a time.

    An issued chunk is decided while its batch is open. A refused one can be decided at any time.
    """
    began_before = since - MAX_OPEN_TIME - _DISORDER
    before = connection.scalar(
        select(Batch.batch_number)
        .where(Batch.decided_at < began_before)
        .order_by(Batch.decided_at.desc())
        .limit(1)
    )
    if before is None:
        return None
    # A sum, because SQLite would search the smallest number of all chunks by the primary key.
    lowest = func.min(Chunk.batch_number + 0)
    late = connection.scalar(select(lowest).where(*_IS_LATE, Chunk.issued_at >= since))
    return before if late is None else min(before, late - 1)


def _first_after(connection: Connection, until: datetime) -> int | None:
    """Return a batch number that is greater than those of all chunks decided before a time."""
    began_after = until + _DECISION_TIME + _DISORDER
    return connection.scalar(
        select(Batch.batch_number)
        .where(Batch.decided_at > began_after)
        .order_by(Batch.decided_at)
        .limit(1)
    )


def _read_ranges(
    connection: Connection,
    query: _Query,
    indexes: Sequence[_Index],
    before: Position | None,
    max_ranges: int | None,
) -> _Rows:
    """Yield the rows of a query by _select_in_ranges in the ranges of indexes, newest first.

    Indexes take turns, each from where the other one has stopped. Returns None if these are all
    rows, or the position after which the caller has to scan: if the other conditions leave few of
    the rows in many ranges, a scan by them is faster.
    """
    count = 0
    while max_ranges is None or count < max_ranges:
        for index in indexes:
            ranges = index(before)
            if not ranges:
                return None
            limit = _ROWS_PER_RANGE * len(ranges)
            parameters = {"ranges": json.dumps(ranges), "limit": limit}
            rows = connection.execute(query, parameters).all()
            yield from rows
            before = Position(ranges[-1].batch_number, ranges[-1].first)
            if len(rows) == limit:
                before = Position(rows[-1].batch_number, rows[-1].item_number)
            elif len(ranges) < _RANGES_PER_READ:
                return None
        count += _RANGES_PER_READ
    return before


def _select_in_ranges(
    connection: Connection, grant_filter: GrantFilter, columns: Sequence[Any]
) -> _Query:
    """Return the query for the rows of a filter in a list of ranges, newest first."""
    rows = _RANGES[connection.dialect.name]
    ranges = rows.columns(batch_number=NUMBER, first=Integer, end=Integer).cte("ranges")
    # Sums, so that PostgreSQL does not infer that two tables have the same batch. It would read
    # all items or chunks of that batch, and compare them with the range afterwards.
    number = ranges.c.batch_number
    return (
        select(*columns, Grant.batch_number)
        .select_from(ranges, Grant, Batch, Chunk)
        .where(Grant.batch_number == number)
        .where(Grant.item_number >= ranges.c.first, Grant.item_number < ranges.c.end)
        .where(Batch.batch_number == number + 0, Chunk.batch_number == 0 + number)
        .where(Chunk.chunk_number == Grant.item_number // Batch.chunk_size)
        .where(*batch_conditions(connection, grant_filter))
        .where(*item_conditions(connection, grant_filter))
        .order_by(Grant.batch_number.desc(), Grant.item_number.desc())
        .limit(bindparam("limit", type_=Integer))
    )


def _to_index(positions: Iterator[Position]) -> _Index:
    return lambda _before: [_single_item(*each) for each in islice(positions, _RANGES_PER_READ)]


def _single_item(batch_number: int, item_number: int) -> _ItemRange:
    return _ItemRange(batch_number, item_number, item_number + 1)


def _positions_of_states(
    connection: Connection, grant_filter: GrantFilter, before: Position | None
) -> Iterator[Position]:
    """Yield the positions that uses and settlements name, newest first, each once."""
    streams = list[Iterator[Position]]()
    if USED_STATES.intersection(grant_filter.states):
        key = (Use.batch_number, Use.item_number)
        query = select(*key).where(*may_cause_state(grant_filter.states)).distinct()
        streams.append(Position(*row) for row in _read_descending(connection, query, key, before))
    if "unused" in grant_filter.states:
        streams.append(_unused_positions(connection, before))
    # A slot that was used after its settlement is in both.
    return (position for position, _ in groupby(merge(*streams, reverse=True)))


def _unused_positions(connection: Connection, before: Position | None) -> Iterator[Position]:
    key = (Settlement.batch_number, Settlement.chunk_number)
    query = select(*key, Settlement.unused).where(Settlement.unused != "")
    next_batch = None if before is None else (before.batch_number + 1, 0)
    for batch_number, _, unused in _read_descending(connection, query, key, next_batch):
        for items in reversed(list(parse_items(unused))):
            for item in reversed(items):
                if before is None or (batch_number, item) < before:
                    yield Position(batch_number, item)


def _read_descending(
    connection: Connection, query: _Query, key: tuple[Any, Any], before: Any
) -> Iterator[_Row]:
    """Yield the rows of a query that begin with a key, the largest key first, in several reads."""
    query = query.order_by(*(column.desc() for column in key)).limit(_RANGES_PER_READ)
    while True:
        later = () if before is None else (tuple_(*key) < tuple(before),)
        rows = connection.execute(query.where(*later)).all()
        yield from rows
        if len(rows) < _RANGES_PER_READ:
            return
        before = rows[-1][:2]


def _selects_refusals(grant_filter: GrantFilter) -> bool:
    """Return whether a filter selects nothing but refused items, and not those of one batch."""
    of_batch = grant_filter.batch_id is not None or grant_filter.grant is not None
    return bool(grant_filter.decisions) and ISSUED not in grant_filter.decisions and not of_batch


def _read_refused_rows(
    connection: Connection, grant_filter: GrantFilter, query: _Query, before: Position | None
) -> _Rows:
    """Read the rows of a filter that selects refusals, newest first.

    A code can be rare, or a tenant have few refused items, or many that few of are of the code. So
    an index by code and one by tenant take turns. Without a tenant, the other conditions may leave
    few rows of the index by code: then the caller scans.
    """
    after, until = batch_bounds(connection, grant_filter)
    if until is not None:
        before = Position(until, 0) if before is None else min(before, Position(until, 0))
    codes: Sequence[str] = sorted(set(grant_filter.decisions))
    if REFUSED in codes:
        codes = connection.scalars(_REFUSAL_CODES).all()
    indexes = list[_Index]()
    if grant_filter.tenant is not None:
        tenants = find_tenant_ids(connection, grant_filter.tenant)
        indexes.append(partial(_chunks_with_refusals, connection, tenants, after))
    if grant_filter.tenant is None or REFUSED not in grant_filter.decisions:
        indexes.append(partial(_items_of_codes, connection, codes, after))
    # With the codes, PostgreSQL finds the refused items of a range by their index, and SQLite
    # does so if there is one code. If there are several, it reads all items of the range.
    query = query.where(Grant.code.in_(codes), _IS_REFUSED)
    max_ranges = _MAX_READ if grant_filter.tenant is None else None
    return _read_ranges(connection, query, indexes, before, max_ranges)


def _items_of_codes(
    connection: Connection, codes: Sequence[str], after: int | None, before: Position | None
) -> list[_ItemRange]:
    """Return the items that were refused with some codes, by the index of codes."""
    key = (Grant.batch_number, Grant.item_number)
    parts = [select(*key).where(Grant.code == code, _IS_REFUSED) for code in codes]
    if before is not None:
        parts = [part.where(tuple_(*key) < before) for part in parts]
    return [_single_item(*row) for row in _read_newest(connection, parts, after)]


def _chunks_with_refusals(
    connection: Connection, tenants: Sequence[str], after: int | None, before: Position | None
) -> list[_ItemRange]:
    """Return the chunks of a tenant that have refused items, up to a position."""
    key = (RefusedChunk.batch_number, RefusedChunk.chunk_number)
    parts = [select(*key).where(RefusedChunk.tenant == tenant) for tenant in tenants]
    if before is not None:
        number, item = before
        last = number, (item - 1) // _chunk_size(connection, number)
        parts = [part.where(tuple_(*key) <= last) for part in parts]
    rows = _read_newest(connection, parts, after)
    numbers = {number for number, _ in rows}
    query = select(Batch.batch_number, Batch.chunk_size).where(Batch.batch_number.in_(numbers))
    sizes = {row.batch_number: row.chunk_size for row in connection.execute(query)}
    ranges = [
        _ItemRange(number, chunk * sizes[number], (chunk + 1) * sizes[number])
        for number, chunk in rows
    ]
    if before is not None and ranges and ranges[0].batch_number == before.batch_number:
        ranges[0] = ranges[0]._replace(end=min(ranges[0].end, before.item_number))
    return ranges


def _read_newest(
    connection: Connection, parts: Sequence[_Query], after: int | None
) -> Sequence[_Row]:
    """Read the largest keys of all parts. An index has each part in order."""
    if not parts:
        return ()
    of_parts = []
    for part in parts:
        number, rank = part.selected_columns
        bounded = part if after is None else part.where(number > after)
        newest = bounded.order_by(number.desc(), rank.desc()).limit(_RANGES_PER_READ)
        of_parts.append(select(newest.subquery()))
    keys = union_all(*of_parts).subquery()
    newest_first = (column.desc() for column in keys.c)
    return connection.execute(select(keys).order_by(*newest_first).limit(_RANGES_PER_READ)).all()

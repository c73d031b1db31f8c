"""Reads the rows of selective filters by indexes: batch numbers, refusals, states.

The time of a chunk has no index. But batches are numbered about in the order of their times, and a
chunk is decided soon after its batch: see the constants.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import merge
from itertools import groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    values,
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
)
from worker.audit.key_lookup import Position
from worker.audit.state_conditions import LONGEST_VALIDITY, USED_STATES, may_cause_state
from worker.base.pages import parse_items
from worker.core.issued_grants import MAX_OPEN_TIME
from worker.ledger.tenant_history import find_tenant_ids, is_of_tenant

# The numbers of two batches can be in another order than their times: clocks differ, and a
# transaction waits for others between reading the clock and getting its number. S3 refuses what is
# signed with a clock that is wrong by 15 minutes.
_DISORDER = timedelta(hours=1)
# From reading the clock to the commit, a chunk may wait for storage, credentials and the database.
_DECISION_TIME = timedelta(hours=1)
# Literals, because a partial index is used only if the statement itself contains its condition.
_IS_LATE = (Chunk.chunk_number > literal_column("0"), Chunk.issued == literal_column("0"))


def range_conditions(
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
    """Return the moment since which the rows of a filter were decided: open grants are not old."""
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
    """Return a batch number that is less than those of all chunks decided since a moment.

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
    """Return a batch number that is greater than those of all chunks decided before a moment."""
    began_after = until + _DECISION_TIME + _DISORDER
    return connection.scalar(
        select(Batch.batch_number)
        .where(Batch.decided_at > began_after)
        .order_by(Batch.decided_at)
        .limit(1)
    )


_FIRST_POSITION_READ, _LARGEST_POSITION_READ, _MAX_POSITION_READ = 64, 256, 2_000


def read_rows_at(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    positions: Iterator[Position],
) -> Generator[Row[*tuple[Any, ...]], None, Position | None]:
    """Yield the rows of a filter among those at some positions, newest first.

    Returns None if these are all rows, or the position after which the caller has to scan: if the
    other conditions leave few of the rows at the positions, a scan by them is faster.
    """
    size, count = _FIRST_POSITION_READ, 0
    while block := list(islice(positions, size)):
        query = _select_positions(block, columns)
        query = query.where(*batch_conditions(connection, grant_filter))
        query = query.where(*item_conditions(connection, grant_filter))
        newest_first = (Grant.batch_number.desc(), Grant.item_number.desc())
        yield from connection.execute(query.order_by(*newest_first)).all()
        count += len(block)
        if count >= _MAX_POSITION_READ:
            return block[-1]
        size = min(2 * size, _LARGEST_POSITION_READ)
    return None


def _select_positions(positions: Sequence[Position], columns: Sequence[Any]) -> Select[Any]:
    """Return a SELECT of columns of the rows at these positions, joined to chunk and batch."""
    number, item = column("batch_number", NUMBER), column("item_number", Integer)
    rows = [tuple(position) for position in positions]
    wanted = values(number, item, name="positions").data(rows).cte()
    is_wanted = and_(
        Grant.batch_number == wanted.c.batch_number, Grant.item_number == wanted.c.item_number
    )
    is_chunk = and_(
        Chunk.batch_number == Batch.batch_number,
        Chunk.chunk_number == Grant.item_number // Batch.chunk_size,
    )
    return (
        select(*columns)
        .select_from(wanted)
        .join(Grant, is_wanted)
        .join(Batch, Batch.batch_number == wanted.c.batch_number)
        .join(Chunk, is_chunk)
    )


_POSITIONS_PER_READ = 256


def has_positions(grant_filter: GrantFilter) -> bool:
    """Return whether uses and settlements name all grants that a filter by state selects."""
    states = set(grant_filter.states)
    return bool(states) and states <= {*USED_STATES, "unused"}


def read_rows_of_states(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    before: Position | None,
) -> Generator[Row[*tuple[Any, ...]], None, Position | None]:
    """Yield the rows of a filter with such states, newest first, while that is worth it.

    Returns None if these are all rows, or the position after which the caller has to scan.
    """
    streams = list[Iterator[Position]]()
    if USED_STATES.intersection(grant_filter.states):
        streams.append(_used_positions(connection, grant_filter, before))
    if "unused" in grant_filter.states:
        streams.append(_unused_positions(connection, before))
    # A slot that was used after its settlement is in both.
    positions = (position for position, _ in groupby(merge(*streams, reverse=True)))
    return (yield from read_rows_at(connection, grant_filter, columns, positions))


def _used_positions(
    connection: Connection, grant_filter: GrantFilter, before: Position | None
) -> Iterator[Position]:
    key = tuple_(Use.batch_number, Use.item_number)
    query = (
        select(Use.batch_number, Use.item_number)
        .where(*may_cause_state(grant_filter.states))
        .distinct()
        .order_by(Use.batch_number.desc(), Use.item_number.desc())
        .limit(_POSITIONS_PER_READ)
    )
    while True:
        later = () if before is None else (key < tuple_(*map(literal, before)),)
        block = [Position(*row) for row in connection.execute(query.where(*later))]
        yield from block
        if len(block) < _POSITIONS_PER_READ:
            return
        before = block[-1]


def _unused_positions(connection: Connection, before: Position | None) -> Iterator[Position]:
    key = tuple_(Settlement.batch_number, Settlement.chunk_number)
    query = (
        select(Settlement.batch_number, Settlement.chunk_number, Settlement.unused)
        .where(Settlement.unused != "")
        .order_by(Settlement.batch_number.desc(), Settlement.chunk_number.desc())
        .limit(_POSITIONS_PER_READ)
    )
    if before is not None:
        query = query.where(Settlement.batch_number <= before.batch_number)
    last: tuple[int, int] | None = None
    while True:
        later = () if last is None else (key < tuple_(*map(literal, last)),)
        rows = connection.execute(query.where(*later)).all()
        for batch_number, _, unused in rows:
            for position in _positions_in(batch_number, unused):
                if before is None or position < before:
                    yield position
        if len(rows) < _POSITIONS_PER_READ:
            return
        last = rows[-1].batch_number, rows[-1].chunk_number


def _positions_in(batch_number: int, unused: str) -> Iterator[Position]:
    """Yield the positions of ranges of items, the last one first."""
    for items in reversed(list(parse_items(unused))):
        for item in reversed(items):
            yield Position(batch_number, item)


_FIRST_REFUSED_READ, _LARGEST_REFUSED_READ, _MAX_REFUSED_READ = 32, 512, 2_000
_ROWS_PER_ENTRY = 4  # on average at most, because all items of many chunks can be refused
# The codes of all refused items, at one search of the index for each.
_REFUSAL_CODES = text(
    "WITH RECURSIVE codes (code) AS ("
    "SELECT min(code) FROM grants WHERE code IS NOT NULL"
    " UNION ALL"
    " SELECT (SELECT min(code) FROM grants WHERE code > codes.code AND code IS NOT NULL)"
    " FROM codes WHERE codes.code IS NOT NULL"
    ") SELECT code FROM codes WHERE code IS NOT NULL"
)
# As one parameter: SQLAlchemy compiles a statement with a list of VALUES each time.
_REFUSAL_RANGES = {
    "sqlite": text(
        "SELECT json_extract(value, '$[0]') AS batch_number,"
        " json_extract(value, '$[1]') AS chunk_number, json_extract(value, '$[2]') AS first,"
        " json_extract(value, '$[3]') AS \"end\" FROM json_each(:ranges)"
    ),
    "postgresql": text(
        "SELECT CAST(value ->> 0 AS bigint) AS batch_number,"
        " CAST(value ->> 1 AS integer) AS chunk_number, CAST(value ->> 2 AS integer) AS first,"
        ' CAST(value ->> 3 AS integer) AS "end"'
        " FROM jsonb_array_elements(CAST(:ranges AS jsonb))"
    ),
}
# A partial index is used only if the statement itself contains its condition.
_IS_REFUSED = Grant.code.is_not(None)

_NEVER = Position(0, 0)

_Rows = Sequence[Row[*tuple[Any, ...]]]
_Key = tuple[int, int, int]
"""The primary key of an item or a chunk, and the number of items in a chunk of its batch."""


class _Range(NamedTuple):
    """Items of a chunk, from first up to, not including, end."""

    batch_number: int
    chunk_number: int
    first: int
    end: int


class _Block(NamedTuple):
    """Rows, and the position down to which these are all; None if there are no others."""

    rows: _Rows
    before: Position | None


def selects_refusals(grant_filter: GrantFilter) -> bool:
    """Return whether a filter selects nothing but refused items, and not those of one batch."""
    of_batch = grant_filter.batch_id is not None or grant_filter.grant is not None
    return bool(grant_filter.decisions) and ISSUED not in grant_filter.decisions and not of_batch


def read_refused_rows(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    before: Position | None,
) -> Generator[Row[*tuple[Any, ...]], None, Position | None]:
    """Yield the rows of a filter that selects_refusals, newest first.

    A code can be rare, or a tenant have few refused items, or many that few of are of the code. So
    an index by code and one by tenant take turns, each from where the other one has stopped.

    Returns None if these are all rows, or the position after which the caller has to scan: without
    a tenant, the other conditions may leave few rows of the index by code.
    """
    search = _RefusalSearch(connection, grant_filter, columns)
    if search.end is not None:
        before = search.end if before is None else min(before, search.end)
    indexes = list[_ItemsOfCodes | _ChunksOfTenant]()
    if grant_filter.tenant is not None:
        indexes.append(_ChunksOfTenant(search, grant_filter.tenant))
    if grant_filter.tenant is None or REFUSED not in grant_filter.decisions:
        indexes.append(_ItemsOfCodes(search))
    size, count = _FIRST_REFUSED_READ, 0
    while count < _MAX_REFUSED_READ or grant_filter.tenant is not None:
        for index in indexes:
            rows, before = index.read(before, size)
            yield from rows
            if before is None:
                return None
        count += size
        size = min(4 * size, _LARGEST_REFUSED_READ)
    return before


class _RefusalSearch:
    """Reads the rows of a filter in given ranges of items, and keys in the filter's time."""

    def __init__(
        self, connection: Connection, grant_filter: GrantFilter, columns: Sequence[Any]
    ) -> None:
        self.connection = connection
        after, until = batch_bounds(connection, grant_filter)
        self._after = after
        self.end = None if until is None else Position(until, 0)
        self.codes = sorted(set(grant_filter.decisions))
        if REFUSED in self.codes:
            self.codes = list(connection.scalars(_REFUSAL_CODES))
        # With the codes, PostgreSQL finds the refused items of a range by their index, and SQLite
        # does so if there is one code. If there are several, it reads all items of the range.
        self._query = (
            _select_in_ranges(connection.dialect.name, (*columns, Grant.batch_number))
            .where(*batch_conditions(connection, grant_filter))
            .where(*item_conditions(connection, grant_filter))
            .where(Grant.code.in_(self.codes), _IS_REFUSED)
            .limit(bindparam("limit", type_=Integer))
        )

    def read_keys(
        self, query: Select[*tuple[Any, ...]], key: tuple[Any, Any], size: int
    ) -> list[_Key]:
        """Read the newest keys that a query selects, with the sizes of their batches' chunks."""
        if self._after is not None:
            query = query.where(key[0] > self._after)
        chunk_size = select(Batch.chunk_size).where(Batch.batch_number == key[0]).scalar_subquery()
        newest_first = (column.desc() for column in key)
        query = query.add_columns(chunk_size).order_by(*newest_first).limit(size)
        return [tuple(row) for row in self.connection.execute(query)]

    def read_rows(self, ranges: Sequence[_Range], limit: int) -> _Rows:
        """Read the newest rows in ranges of items, newest first."""
        parameters = {"ranges": json.dumps(ranges), "limit": limit}
        return self.connection.execute(self._query, parameters).all()


def _select_in_ranges(dialect: str, columns: Sequence[Any]) -> Select[Any]:
    """Return the query for the grants in a list of ranges, newest first."""
    ranges = (
        _REFUSAL_RANGES[dialect]
        .columns(batch_number=NUMBER, chunk_number=Integer, first=Integer, end=Integer)
        .cte("ranges")
    )
    # Sums, so that PostgreSQL does not infer that two tables have the same batch. It would read
    # all items or chunks of that batch, and compare them with the range afterwards.
    number = ranges.c.batch_number
    return (
        select(*columns)
        .select_from(ranges, Grant, Batch, Chunk)
        .where(Grant.batch_number == number)
        .where(Grant.item_number >= ranges.c.first, Grant.item_number < ranges.c.end)
        .where(Batch.batch_number == number + 0)
        .where(Chunk.batch_number == 0 + number, Chunk.chunk_number == ranges.c.chunk_number)
        .order_by(Grant.batch_number.desc(), Grant.item_number.desc())
    )


class _ItemsOfCodes:
    """The items that were refused with some codes, by the index of codes."""

    def __init__(self, search: _RefusalSearch) -> None:
        self._search = search
        self._keys: Iterator[_Key] = iter(())
        self._reached: Position | None = _NEVER

    def read(self, before: Position | None, size: int) -> _Block:
        """Read the rows of the next entries of the index, from a position on."""
        if before != self._reached:
            streams = (self._keys_of_code(code, before, size) for code in self._search.codes)
            self._keys = merge(*streams, reverse=True)
        keys = list(islice(self._keys, size))
        if not keys:
            return _Block((), None)
        self._reached = Position(*keys[-1][:2])
        ranges = [_Range(batch, item // size, item, item + 1) for batch, item, size in keys]
        return _Block(self._search.read_rows(ranges, len(ranges)), self._reached)

    def _keys_of_code(self, code: str, before: Position | None, size: int) -> Iterator[_Key]:
        key = (Grant.batch_number, Grant.item_number)
        while True:
            query = select(*key).where(Grant.code == code, _IS_REFUSED)
            if before is not None:
                query = query.where(tuple_(*key) < tuple_(*map(literal, before)))
            keys = self._search.read_keys(query, key, size)
            yield from keys
            if len(keys) < size:
                return
            before = Position(*keys[-1][:2])


class _ChunksOfTenant:
    """The chunks of a tenant that have refused items."""

    def __init__(self, search: _RefusalSearch, tenant: str) -> None:
        self._search = search
        self._tenants = find_tenant_ids(search.connection, tenant)

    def read(self, before: Position | None, size: int) -> _Block:
        """Read the rows of the next entries of the index, from a position on."""
        last = None if before is None else self._chunk_before(before)
        streams = [self._chunks(tenant, last, size) for tenant in self._tenants]
        chunks = list(islice(merge(*streams, reverse=True), size))
        if not chunks:
            return _Block((), None)
        ranges = [
            _Range(batch, chunk, chunk * size, (chunk + 1) * size) for batch, chunk, size in chunks
        ]
        reached = Position(ranges[-1].batch_number, ranges[-1].first)
        if before is not None and before.batch_number == ranges[0].batch_number:
            ranges[0] = ranges[0]._replace(end=min(ranges[0].end, before.item_number))
        limit = _ROWS_PER_ENTRY * len(ranges)
        rows = self._search.read_rows(ranges, limit)
        if len(rows) == limit:
            return _Block(rows, Position(rows[-1].batch_number, rows[-1].item_number))
        return _Block(rows, reached if len(chunks) == size else None)

    def _chunks(self, tenant: str, last: tuple[int, int] | None, size: int) -> list[_Key]:
        key = (RefusedChunk.batch_number, RefusedChunk.chunk_number)
        query = select(*key).where(RefusedChunk.tenant == tenant)
        if last is not None:
            query = query.where(tuple_(*key) <= tuple_(*map(literal, last)))
        return self._search.read_keys(query, key, size)

    def _chunk_before(self, position: Position) -> tuple[int, int]:
        """Return the chunk of the item before a position."""
        number, item = position
        query = select(Batch.chunk_size).where(Batch.batch_number == number)
        return number, (item - 1) // self._search.connection.execute(query).scalar_one()

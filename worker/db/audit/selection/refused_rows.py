"""Reads refused grants, newest first, by two indexes that have refused items only."""

import json
from collections.abc import Generator, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Integer, Row, Select, bindparam, literal, select, text, tuple_

from models import Batch, Chunk, Grant, RefusedChunk
from models.base import NUMBER
from worker.db.audit.filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    item_conditions,
)
from worker.db.audit.selection.batch_range import batch_bounds
from worker.db.audit.selection.tenant_filter import find_tenant_ids
from worker.db.key_lookup.entries import Position

_FIRST_READ, _LARGEST_READ, _MAX_READ = 32, 512, 2_000
_ROWS_PER_ENTRY = 4  # on average at most, because all items of many chunks can be refused
# The codes of all refused items, at one search of the index for each.
_CODES = text(
    "WITH RECURSIVE codes (code) AS ("
    "SELECT min(code) FROM grants WHERE code IS NOT NULL"
    " UNION ALL"
    " SELECT (SELECT min(code) FROM grants WHERE code > codes.code AND code IS NOT NULL)"
    " FROM codes WHERE codes.code IS NOT NULL"
    ") SELECT code FROM codes WHERE code IS NOT NULL"
)
# As one parameter: SQLAlchemy compiles a statement with a list of VALUES each time.
_RANGES = {
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


class _Index(Protocol):
    def read(self, before: Position | None, size: int) -> _Block:
        """Read the rows of the next entries of the index, from a position on."""


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
    search = _Search(connection, grant_filter, columns)
    if search.end is not None:
        before = search.end if before is None else min(before, search.end)
    indexes: list[_Index] = []
    if grant_filter.tenant is not None:
        indexes.append(_ChunksOfTenant(search, grant_filter.tenant))
    if grant_filter.tenant is None or REFUSED not in grant_filter.decisions:
        indexes.append(_ItemsOfCodes(search))
    size, count = _FIRST_READ, 0
    while count < _MAX_READ or grant_filter.tenant is not None:
        for index in indexes:
            rows, before = index.read(before, size)
            yield from rows
            if before is None:
                return None
        count += size
        size = min(4 * size, _LARGEST_READ)
    return before


class _Search:
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
            self.codes = list(connection.scalars(_CODES))
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
        _RANGES[dialect]
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

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._keys: Iterator[_Key] = iter(())
        self._reached: Position | None = _NEVER

    def read(self, before: Position | None, size: int) -> _Block:
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

    def __init__(self, search: _Search, tenant: str) -> None:
        self._search = search
        self._tenants = find_tenant_ids(search.connection, tenant)

    def read(self, before: Position | None, size: int) -> _Block:
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

"""Reads the rows of the audit log by ranges of batches, in the order in which they are merged."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import JSON, Column, Integer, LargeBinary, String

import models
from models.base import Base, Instant
from worker.ledger.merkle import HASH_BYTES
from worker.proof.verify.log_reader import (
    LogReader,
    Problem,
    Reader,
    Row,
    binary,
    digest,
    instant,
    json_value,
    number,
    optional,
    text,
    where_tenant,
)

_Condition = tuple[str, tuple[Any, ...]]  # with the values of its parameters


class WrongKey(ValueError):
    """A row of a table whose key is no number, so that it has no place in the order of rows."""

    def __init__(self, table: str, column: str) -> None:
        self.problem = Problem(table, "is no whole number", column=column)
        super().__init__(str(self.problem))


class RowQueue:
    """The rows of one table, in order, with a look at the next one.

    keys is the number of columns, from the first on, that are numbers. Raises WrongKey.
    """

    def __init__(self, table: str, blocks: Iterator[list[Row]], keys: int = 2) -> None:
        self._table = table
        self._keys = keys
        self._blocks = blocks
        self._block: list[Row] = []
        self._taken = 0
        self._wrong: WrongKey | None = None
        self.next: Row | None = None
        self._read_block()

    def pop(self) -> Row:
        """Remove the next row, which must exist, and return it."""
        row = self.next
        if row is None:
            raise LookupError("the queue is empty")
        self._taken += 1
        try:
            self.next = self._block[self._taken]
        except IndexError:
            self._read_block()
        return row

    def take(self, key: tuple[int, int]) -> list[Row]:
        """Remove and return the rows with a key of two columns, if they are the next ones."""
        rows = []
        while self.next is not None and self.next[:2] == key:
            rows.append(self.pop())
        return rows

    def _read_block(self) -> None:
        if self._wrong is not None:
            raise self._wrong
        self._block, self._taken = next(self._blocks, []), 0
        for index in range(self._keys):
            self._check_column(index)
        if not self._block and self._wrong is not None:
            raise self._wrong
        self.next = self._block[0] if self._block else None

    def _check_column(self, index: int) -> None:
        """End the block before the first row whose key is wrong: that is an error when reached."""
        if {type(row[index]) for row in self._block} <= {int}:
            return
        end = next(n for n, row in enumerate(self._block) if not isinstance(row[index], int))
        del self._block[end:]
        self._wrong = WrongKey(self._table, ("batch_number", "chunk_number")[index])


class GrantQueue:
    """The rows of grants in order, taken many at once."""

    def __init__(self, blocks: Iterator[list[Row]]) -> None:
        self._blocks = blocks
        self._block: list[Row] = next(blocks, [])
        self._taken = 0

    @property
    def next(self) -> Row | None:
        """The next row, or None."""
        return self._block[self._taken] if self._block else None

    def take_before(self, batch_number: int, item_number: int) -> list[Row]:
        """Remove and return the rows before an item of a batch.

        Raises WrongKey.
        """
        end: Any = (batch_number, item_number)
        taken: list[Row] = []
        while self._block:
            try:
                if self._block[self._taken] >= end:
                    break
                stop = bisect_left(self._block, end, self._taken)
            except TypeError:
                raise WrongKey("grants", "item_number") from None
            taken += self._block[self._taken : stop]
            self._taken = stop
            if stop < len(self._block):
                break
            self._block, self._taken = next(self._blocks, []), 0
        return taken


def _read_table(table: type[Base], *first: str) -> dict[str, Reader]:
    """Return the readers of a table's columns: first those that are named, then the others."""
    columns = table.metadata.tables[table.__tablename__].columns
    return {name: _reader_of(columns[name]) for name in dict.fromkeys((*first, *columns.keys()))}


def _reader_of(column: Column[Any]) -> Reader:
    match column.type:
        case Instant():
            reader: Reader = instant
        case JSON():
            reader = json_value
        case LargeBinary(length=length):
            reader = digest if length == HASH_BYTES else binary
        case Integer():
            reader = number
        case String():
            reader = text
        case other:
            raise TypeError(f"{column}: no reader for {other!r}")
    return optional(reader) if column.nullable else reader


BATCH = _read_table(models.Batch, "batch_number", "batch_id", "tenant")
CHUNK = _read_table(models.Chunk, "batch_number", "chunk_number")
REISSUE = _read_table(models.Reissue)
CANCELLATION = _read_table(models.Cancellation)
REVOCATION = _read_table(models.Revocation)
CONFIG_CHANGE = _read_table(models.ConfigChange)
PRUNE = _read_table(models.Prune, "prune_number", "tenant")
USE = _read_table(models.Use, "tenant", "group_id")
SETTLEMENT = _read_table(models.Settlement)
ITEM_EDGE = _read_table(models.ItemEdge)
LEAF = _read_table(models.Leaf, "batch_number", "chunk_number")
GRANT = _read_table(
    models.Grant, *("batch_number", "item_number", "object_key", "code", "detail", "digest")
)
CHECKPOINT = _read_table(models.Checkpoint, "tenant", "size", "root", "signed_at", "note", "edge")


class BatchRange(NamedTuple):
    """Batch numbers from first up to, not including, end; None is no bound."""

    first: int | None
    end: int | None


def select_columns(dialect: str, columns: Mapping[str, Reader]) -> str:
    """Return a list of columns: times as SQLite stores them, JSON as its text."""
    return ", ".join(_column(dialect, name, reader) for name, reader in columns.items())


def _column(dialect: str, name: str, reader: Reader) -> str:
    if dialect == "sqlite":
        return f'"{name}"'
    if reader in {instant, optional(instant)}:
        return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    return f'"{name}"::text' if reader in {json_value, optional(json_value)} else f'"{name}"'


class RangeRows(NamedTuple):
    """The rows of a range of batches, each table in the order of its primary key."""

    batches: RowQueue
    chunks: RowQueue
    grants: GrantQueue
    reissues: RowQueue
    settlements: RowQueue
    leaves: RowQueue
    item_edges: RowQueue

    @property
    def of_chunks(self) -> tuple[RowQueue, ...]:
        """The tables whose rows belong to one chunk each."""
        return self.chunks, self.reissues, self.settlements, self.leaves, self.item_edges


def read_range(reader: LogReader, batches: BatchRange, tenants: tuple[str, ...]) -> RangeRows:
    """Read the rows of a range of batches: of all tenants, or of those with the given ids.

    Leaves are in the order of batch, chunk, and leaf number.
    """
    bounds, params = _bounds(batches)
    of_batches = of_leaves = bounds, params
    if tenants:
        is_own, ids = where_tenant("tenant", tenants)
        of_leaves = f"{bounds} AND {is_own}", (*params, *ids)
        own = f"SELECT batch_number FROM batches WHERE {of_leaves[0]}"  # noqa: S608 - no value
        of_batches = f"{bounds} AND batch_number IN ({own})", (*params, *of_leaves[1])

    def rows(
        table: str, columns: Mapping[str, Reader], order: str, where: _Condition = of_batches
    ) -> Iterator[list[Row]]:
        names = select_columns(reader.dialect, columns)
        statement = f"SELECT {names} FROM {table} WHERE {where[0]} ORDER BY {order}"  # noqa: S608 - no value
        return reader.stream(statement, *where[1])

    chunk = "batch_number, chunk_number"
    return RangeRows(
        RowQueue("batches", rows("batches", BATCH, "batch_number", of_leaves), keys=1),
        RowQueue("chunks", rows("chunks", CHUNK, chunk)),
        GrantQueue(rows("grants", GRANT, "batch_number, item_number")),
        RowQueue("reissues", rows("reissues", REISSUE, f"{chunk}, fingerprint")),
        RowQueue("settlements", rows("settlements", SETTLEMENT, chunk)),
        RowQueue("leaves", rows("leaves", LEAF, f"{chunk}, leaf_number", of_leaves)),
        RowQueue("item_edges", rows("item_edges", ITEM_EDGE, chunk)),
    )


def _bounds(batches: BatchRange) -> _Condition:
    conditions, params = ["batch_number IS NOT NULL"], []
    if batches.first is not None:
        conditions.append("batch_number >= ?")
        params.append(batches.first)
    if batches.end is not None:
        conditions.append("batch_number < ?")
        params.append(batches.end)
    return " AND ".join(conditions), tuple(params)


_ITEMS_PER_RANGE = 40_000
_MAX_RANGES = 5_000


class CountedRange(NamedTuple):
    """A range of batches, and the number of their items, as their chunks say."""

    batches: BatchRange
    items: int

    @property
    def is_large(self) -> bool:
        """True if the range has many more items than others: a batch is not divided."""
        return self.items > 2 * _ITEMS_PER_RANGE


def read_ranges(reader: LogReader) -> list[CountedRange]:
    """Divide all batches into ranges, in order.

    The first one has no start and the last one no end. Nothing that is read for it has been
    verified, so a wrong value makes the ranges unequal at most.
    """
    lowest, highest = reader.fetch("SELECT min(batch_number), max(batch_number) FROM batches")[0]
    if not isinstance(lowest, int) or not isinstance(highest, int):
        return [CountedRange(BatchRange(None, None), 0)]
    width = (highest - lowest) // _MAX_RANGES + 1
    counts = reader.fetch(
        "SELECT batch_number / ?, sum(1.0 * issued + refused) FROM chunks "
        "WHERE batch_number BETWEEN ? AND ? GROUP BY 1 ORDER BY 1",
        *(width, lowest, highest),
    )
    return list(
        _join_ranges(
            [(_end_of_range(step, width), max(int(items or 0), 0)) for step, items in counts]
        )
    )


def _end_of_range(step: int, width: int) -> int:
    """Return the first number after those that give step when they are divided by width."""
    return (step + 1) * width if step >= 0 else step * width + 1


def _join_ranges(ends: list[tuple[int, int]]) -> Iterator[CountedRange]:
    """Join ranges, given by their ends and numbers of items, until they have enough items."""
    start, items = None, 0
    for end, count in ends[:-1]:
        items += count
        if items >= _ITEMS_PER_RANGE:
            yield CountedRange(BatchRange(start, end), items)
            start, items = end, 0
    yield CountedRange(BatchRange(start, None), items + sum(count for _, count in ends[-1:]))

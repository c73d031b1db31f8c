"""Reads the rows of the audit log by ranges of batches, in the order in which they are merged."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, NamedTuple

from worker.proof.verify.log_reader import (
    LogReader,
    Reader,
    Row,
    WrongValue,
    binary,
    digest,
    instant,
    json_value,
    number,
    optional,
    text,
)


class WrongKey(ValueError):
    """A row of a table whose key is no number, so that it has no place in the order of rows."""

    def __init__(self, table: str, column: str) -> None:
        super().__init__(f"{table}: {column} is no whole number")
        self.table = table
        self.error = WrongValue(column, "is no whole number")


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


BATCH: dict[str, Reader] = {
    "batch_number": number,
    "batch_id": text,
    "tenant": text,
    "bucket": text,
    "kind": text,
    "requested_by": text,
    "reason": optional(text),
    "terms": json_value,
    "total": number,
    "chunk_size": number,
    "callback": optional(text),
    "fingerprint": digest,
    "refusal": optional(json_value),
    "decided_at": instant,
    "recipient": optional(text),
    "notify": optional(json_value),
    "reissue_of": optional(text),
}
CHUNK: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "fingerprint": digest,
    "issued": number,
    "refused": number,
    "issued_at": instant,
    "expires_in": number,
    "limited_by": text,
    "access_key": optional(text),
    "refusal": optional(json_value),
    "signing_key": optional(text),
}
REISSUE: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "fingerprint": digest,
    "access_key": text,
    "reissued_at": instant,
    "digests": binary,
}
CANCELLATION: dict[str, Reader] = {
    "tenant": text,
    "batch_id": text,
    "signing_key": optional(text),
    "requested_by": text,
    "reason": optional(text),
    "cancelled_at": instant,
}
REVOCATION: dict[str, Reader] = {
    "tenant": text,
    "revocation_id": text,
    "target_kind": text,
    "target": text,
    "bucket": optional(text),
    "storage": optional(text),
    "grants": number,
    "revoked_by": text,
    "reason": optional(text),
    "revoked_at": instant,
    "lapses_at": instant,
}
CONFIG_CHANGE: dict[str, Reader] = {
    "change_number": number,
    "changed_at": instant,
    "changed_by": text,
    "command": text,
    "path": text,
    "before": optional(json_value),
    "after": optional(json_value),
}
PRUNE: dict[str, Reader] = {
    "prune_number": number,
    "tenant": text,
    "before": text,
    "pruned_by": text,
    "pruned_at": instant,
    "chunks": number,
    "items": number,
    "edges": number,
    "use_groups": number,
}
USE: dict[str, Reader] = {
    "tenant": text,
    "group_id": text,
    "fingerprint": digest,
    "batch_number": number,
    "item_number": number,
    "event": text,
    "source": text,
    "verdict": text,
    "problem": optional(text),
    "occurred_at": instant,
    "recorded_at": instant,
    "size": optional(number),
    "etag": optional(text),
    "version": optional(text),
    "checksum": optional(text),
    "content_type": optional(text),
    "remote_address": optional(text),
    "user_agent": optional(text),
    "charged_bytes": optional(number),
}
SETTLEMENT: dict[str, Reader] = {
    "batch_number": number,
    "chunk_number": number,
    "tenant": text,
    "unused": text,
    "used_bytes": number,
    "returned_bytes": number,
    "settled_at": instant,
}
ITEM_EDGE: dict[str, Reader] = {"batch_number": number, "chunk_number": number, "edge": binary}
LEAF: dict[str, Reader] = {
    "batch_number": optional(number),
    "chunk_number": optional(number),
    "tenant": text,
    "leaf_number": number,
    "kind": text,
    "reference": optional(text),
    "hash": digest,
}
GRANT = ("batch_number", "item_number", "object_key", "code", "detail", "digest")
_JSON = {"terms", "refusal", "detail", "before", "after", "notify"}
_INSTANTS = {
    "decided_at",
    "issued_at",
    "reissued_at",
    "cancelled_at",
    "changed_at",
    "pruned_at",
    "signed_at",
    "window_start",
    "charged_at",
    "occurred_at",
    "recorded_at",
    "settled_at",
    "revoked_at",
    "lapses_at",
}


class BatchRange(NamedTuple):
    """Batch numbers from first up to, not including, end; None is no bound."""

    first: int | None
    end: int | None


def select_columns(dialect: str, columns: Any) -> str:
    """Return a list of columns: times as SQLite stores them, JSON as its text."""
    return ", ".join(_column(dialect, column) for column in columns)


def _column(dialect: str, column: str) -> str:
    if dialect == "sqlite":
        return f'"{column}"'
    if column in _INSTANTS:
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    return f'"{column}"::text' if column in _JSON else f'"{column}"'


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
    of_batches = of_leaves = bounds
    batch_params = leaf_params = params
    if tenants:
        marks = ", ".join("?" * len(tenants))
        of_leaves = f"{bounds} AND tenant IN ({marks})"
        leaf_params = (*params, *tenants)
        of_batches = (
            f"{bounds} AND batch_number IN (SELECT batch_number FROM batches WHERE {of_leaves})"  # noqa: S608 - no value
        )
        batch_params = (*params, *leaf_params)

    def rows(
        table: str, columns: Any, order: str, where: str, values: tuple[Any, ...]
    ) -> Iterator[list[Row]]:
        names = select_columns(reader.dialect, columns)
        statement = f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608 - no value
        return reader.stream(statement, *values)

    number_, chunk = "batch_number", "batch_number, chunk_number"
    return RangeRows(
        RowQueue("batches", rows("batches", BATCH, number_, of_leaves, leaf_params), keys=1),
        RowQueue("chunks", rows("chunks", CHUNK, chunk, of_batches, batch_params)),
        GrantQueue(rows("grants", GRANT, "batch_number, item_number", of_batches, batch_params)),
        RowQueue(
            "reissues", rows("reissues", REISSUE, f"{chunk}, fingerprint", of_batches, batch_params)
        ),
        RowQueue("settlements", rows("settlements", SETTLEMENT, chunk, of_batches, batch_params)),
        RowQueue("leaves", rows("leaves", LEAF, f"{chunk}, leaf_number", of_leaves, leaf_params)),
        RowQueue("item_edges", rows("item_edges", ITEM_EDGE, chunk, of_batches, batch_params)),
    )


def _bounds(batches: BatchRange) -> tuple[str, tuple[Any, ...]]:
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

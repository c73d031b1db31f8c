"""Queues of stored rows in the order of their keys."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from worker.db.tree.log_readers import Row
from worker.db.tree.stored_values import WrongValue


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

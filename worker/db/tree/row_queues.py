"""Queues of stored rows in the order of their keys."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain
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
        self._rows = chain.from_iterable(blocks)
        self.next: Row | None = None
        self._advance()

    def _advance(self) -> None:
        self.next = row = next(self._rows, None)
        for index in range(self._keys if row else 0):
            if not isinstance(row[index], int):  # type: ignore[index]
                raise WrongKey(self._table, ("batch_number", "chunk_number")[index])

    def pop(self) -> Row:
        """Remove the next row, which must exist, and return it."""
        row = self.next
        if row is None:
            raise LookupError("the queue is empty")
        self._advance()
        return row


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
                stop = bisect_left(self._block, end, self._taken)
            except TypeError:
                raise WrongKey("grants", "item_number") from None
            taken += self._block[self._taken : stop]
            self._taken = stop
            if stop < len(self._block):
                break
            self._block, self._taken = next(self._blocks, []), 0
        return taken

"""Divides batches into ranges with about as many items each."""

from collections.abc import Iterator
from typing import NamedTuple

from worker.db.tree.log_readers import LogReader
from worker.db.tree.stored_rows import BatchRange

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
    return list(_join([(_end(step, width), max(int(items or 0), 0)) for step, items in counts]))


def _end(step: int, width: int) -> int:
    """Return the first number after those that give step when they are divided by width."""
    return (step + 1) * width if step >= 0 else step * width + 1


def _join(ends: list[tuple[int, int]]) -> Iterator[CountedRange]:
    """Join ranges, given by their ends and numbers of items, until they have enough items."""
    start, items = None, 0
    for end, count in ends[:-1]:
        items += count
        if items >= _ITEMS_PER_RANGE:
            yield CountedRange(BatchRange(start, end), items)
            start, items = end, 0
    yield CountedRange(BatchRange(start, None), items + sum(count for _, count in ends[-1:]))

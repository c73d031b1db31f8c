"""Reads the grants of one object key by their positions, which the key lookup knows."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, tuple_

from models import Batch, Grant
from worker.db.key_lookup.entries import Position
from worker.db.key_lookup.find import find_positions

_FIRST_READ, _LARGEST_READ = 64, 1_024


def read_rows_of_key(
    connection: Connection, query: Select[Any], object_key: str, before: Position | None
) -> Iterator[Row[*tuple[Any, ...]]]:
    """Yield the rows of a query that have an object key, newest first.

    The query joins `Batch` and `Grant`, is ordered newest first and has the condition on the key.
    With before, only older rows are yielded. Needs a transaction; close the iterator before it
    ends.
    """
    with closing(find_positions(connection, object_key, before)) as positions:
        size = _FIRST_READ
        while block := list(islice(positions, size)):
            yield from connection.execute(query.where(*_are_at(block))).all()
            size = min(2 * size, _LARGEST_READ)


def _are_at(positions: list[Position]) -> Iterator[ColumnElement[bool]]:
    # Alone, the second condition would not let a database start with the few batches.
    yield Batch.batch_number.in_(sorted({position.batch_number for position in positions}))
    yield tuple_(Grant.batch_number, Grant.item_number).in_(positions)

"""Reads the grants of one object key by their positions."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, tuple_

from models import Batch, Chunk, Grant
from worker.db.key_lookup.entries import Position
from worker.db.key_lookup.find import find_positions

_FIRST_READ, _LARGEST_READ = 64, 1_024


def read_rows_of_key(
    connection: Connection,
    columns: Sequence[Any],
    conditions: Sequence[ColumnElement[bool]],
    object_key: str,
    before: Position | None,
) -> Generator[Row[*tuple[Any, ...]]]:
    """Yield columns of the grants of an object key that meet conditions, newest first.

    Columns and conditions are those of `Grant`, its `Batch` and its `Chunk`. With before, only
    older rows are yielded. Needs a transaction; close the iterator before it ends.
    """
    query = (
        select(*columns)
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .join(
            Chunk,
            (Chunk.batch_number == Grant.batch_number)
            & (Chunk.chunk_number == Grant.item_number // Batch.chunk_size),
        )
        .where(Grant.object_key == object_key, *conditions)
        .order_by(Grant.batch_number.desc(), Grant.item_number.desc())
    )
    position = tuple_(Grant.batch_number, Grant.item_number)
    with closing(find_positions(connection, object_key, before)) as positions:
        size = _FIRST_READ
        while block := list(islice(positions, size)):
            yield from connection.execute(query.where(position.in_(block))).all()
            size = min(2 * size, _LARGEST_READ)

"""Reads the rows of a filter at given positions."""

from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, and_, column, select, values

from models import Batch, Chunk, Grant
from models.base import NUMBER
from worker.db.audit.filters import GrantFilter, batch_conditions, item_conditions
from worker.db.key_lookup.entries import Position

_FIRST_READ, _LARGEST_READ, _MAX_READ = 64, 256, 2_000


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
    size, count = _FIRST_READ, 0
    while True:
        block = list(islice(positions, size))
        if not block:
            return None
        query = _select_positions(block, columns)
        query = query.where(*batch_conditions(connection, grant_filter))
        query = query.where(*item_conditions(connection, grant_filter))
        newest_first = (Grant.batch_number.desc(), Grant.item_number.desc())
        yield from connection.execute(query.order_by(*newest_first)).all()
        count += len(block)
        if count >= _MAX_READ:
            return block[-1]
        size = min(2 * size, _LARGEST_READ)


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

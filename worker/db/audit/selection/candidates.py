"""Positions at which the rows of a filter may be, found by an index instead of a scan."""

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Select, and_, column, literal, select, tuple_, values

from models import Batch, Chunk, Grant
from models.base import NUMBER
from worker.db.audit.filters import ISSUED, REFUSED, GrantFilter

_POSITIONS_PER_READ = 200


class Position(NamedTuple):
    """The primary key of an audit row."""

    batch_number: int
    item_number: int


def candidate_positions(
    connection: Connection, grant_filter: GrantFilter, before: Position | None
) -> Iterator[Position] | None:
    """Yield all positions that can match, newest first, or return None if no index has them.

    The rows at other positions do not match; those at these positions may or may not.
    """
    codes = set(grant_filter.decisions) - {ISSUED, REFUSED}
    if codes and codes == set(grant_filter.decisions):
        streams = (_positions_of_code(connection, code, before) for code in sorted(codes))
        return merge(*streams, reverse=True)
    return None


def select_positions(positions: Sequence[Position], *columns: Any) -> Select[Any]:
    """Return a SELECT of columns of the rows at these positions, joined to chunk and batch."""
    table = values(
        column("batch_number", NUMBER), column("item_number", Integer), name="positions"
    ).data([tuple(position) for position in positions])
    wanted = table.cte()
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


def _positions_of_code(
    connection: Connection, code: str, before: Position | None
) -> Iterator[Position]:
    """Yield the positions of a code in blocks, each with one search of the index."""
    key = tuple_(Grant.batch_number, Grant.item_number)
    while True:
        query = select(Grant.batch_number, Grant.item_number).where(Grant.code == code)
        # The partial index is used only if the statement itself says so.
        query = query.where(Grant.code.is_not(None))
        if before is not None:
            query = query.where(key < tuple_(*map(literal, before)))
        query = query.order_by(Grant.batch_number.desc(), Grant.item_number.desc())
        block = [Position(*row) for row in connection.execute(query.limit(_POSITIONS_PER_READ))]
        yield from block
        if len(block) < _POSITIONS_PER_READ:
            return
        before = block[-1]
